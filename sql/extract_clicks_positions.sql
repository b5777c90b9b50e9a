-- What the same item got after the same query at several places of a list: the data of jobs/position_bias.py.
-- Reads: clicks_by_position (of all days).
-- Parameters: first_day, last_day (of training), positions (places further down count as the last), pairs (at most).
-- Gives: position_totals, position_pairs.

CREATE OR REPLACE TEMPORARY VIEW seen_at_positions AS
SELECT query, item_id, position, sum(impressions) AS impressions, sum(clicks) AS clicks
FROM (
  SELECT /*+ REPARTITION(query, item_id) */ query, item_id, least(position, :positions) AS position, impressions, clicks
  FROM clicks_by_position
  WHERE day BETWEEN :first_day AND :last_day
)
GROUP BY query, item_id, position;

CREATE OR REPLACE TEMPORARY VIEW position_totals AS
SELECT least(position, :positions) AS position, sum(impressions) AS impressions, sum(clicks) AS clicks
FROM clicks_by_position
WHERE day BETWEEN :first_day AND :last_day
GROUP BY least(position, :positions);

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
