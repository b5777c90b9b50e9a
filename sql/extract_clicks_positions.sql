-- What the same item got after the same query at several places of a list: the data of jobs/position_bias.py.
-- Reads: clicks_by_position (of all days), catalogue (prepare-items).
-- Parameters: first_day, last_day (of training), positions (places further down count as the last), pairs (at most).
-- Gives: position_totals, position_pairs.

CREATE OR REPLACE TEMPORARY VIEW training_clicks_by_position AS
SELECT p.query, p.item_id, least(p.position, :positions) AS position, p.impressions, p.clicks
FROM clicks_by_position AS p
LEFT SEMI JOIN catalogue AS c ON c.item_id = p.item_id
WHERE p.day BETWEEN :first_day AND :last_day;

CREATE OR REPLACE TEMPORARY VIEW seen_at_positions AS
SELECT query, item_id, position, sum(impressions) AS impressions, sum(clicks) AS clicks
FROM (SELECT /*+ REPARTITION(query, item_id) */ * FROM training_clicks_by_position)
GROUP BY query, item_id, position;

CREATE OR REPLACE TEMPORARY VIEW position_totals AS
SELECT position, sum(impressions) AS impressions, sum(clicks) AS clicks
FROM training_clicks_by_position
GROUP BY position;

-- A pair seen at one place only, or never clicked, says nothing. Of too many the hash draws some.
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
