-- What the same item got after the same query at several places of a list: the data of jobs/position_bias.py.
-- Reads: training_clicks_by_position (sql/extract_clicks_totals.sql).
-- Parameters: share (of the clicked pairs of query and item to look at), pairs (to give, at most).
-- Gives: position_pairs.

-- A pair never clicked says nothing. By hashes, as there are many: one that two pairs share is told apart below.
CREATE OR REPLACE TEMPORARY VIEW clicked_pairs AS
SELECT DISTINCT xxhash64(query, item_id) AS pair
FROM training_clicks_by_position
WHERE clicks > 0 AND pmod(xxhash64(item_id, query), 1000000) < 1000000 * :share;

CREATE OR REPLACE TEMPORARY VIEW seen_at_positions AS
SELECT t.query, t.item_id, t.position, sum(t.impressions) AS impressions, sum(t.clicks) AS clicks
FROM (
  SELECT /*+ REPARTITION(query, item_id) */ t.*
  FROM training_clicks_by_position AS t
  LEFT SEMI JOIN (SELECT /*+ BROADCAST */ * FROM clicked_pairs) AS p ON p.pair = xxhash64(t.query, t.item_id)
) AS t
GROUP BY t.query, t.item_id, t.position;

-- Nor does one seen at one place only. Of too many the hash draws some.
CREATE OR REPLACE TEMPORARY VIEW position_pairs AS
SELECT seen.position AS positions, seen.impressions AS impressions, seen.clicks AS clicks
FROM (
  SELECT query, item_id, sort_array(collect_list(struct(position, impressions, clicks))) AS seen
  FROM seen_at_positions
  GROUP BY query, item_id
  HAVING count(*) > 1 AND sum(clicks) > 0
)
ORDER BY xxhash64(query, item_id), query, item_id
LIMIT :pairs;
