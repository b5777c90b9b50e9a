-- A part of the true and of the synthetic queries, each with its department, small enough for one process.
-- Reads: training_clicks (clicked rows of the training days), written_queries (the table synthetic_queries), catalogue.
-- Parameters: true_share, synthetic_share (of distinct true queries and of synthetic rows), seed.
-- Gives: query_sample.

-- 63 bits of a hash, uniform, against a share of them: the same rows on any cluster.
CREATE OR REPLACE TEMPORARY FUNCTION is_drawn(luck BIGINT, share DOUBLE)
RETURNS BOOLEAN
RETURN share >= 1 OR (luck & 9223372036854775807) < share * 9223372036854775807D;

-- A query counts once, for the department with most of its clicks.
CREATE OR REPLACE TEMPORARY VIEW true_sample AS
SELECT query, max_by(department, struct(clicks, department)) AS department
FROM (
  SELECT t.query, c.department, sum(t.clicks) AS clicks
  FROM training_clicks AS t
  INNER JOIN catalogue AS c ON c.item_id = t.item_id
  WHERE is_drawn(xxhash64(t.query, :seed), :true_share)
  GROUP BY t.query, c.department
)
GROUP BY query;

CREATE OR REPLACE TEMPORARY VIEW query_sample AS
SELECT query, department, 'true' AS origin FROM true_sample
UNION ALL
SELECT w.query, c.department, w.method AS origin
FROM written_queries AS w
INNER JOIN catalogue AS c ON c.item_id = w.item_id
WHERE is_drawn(xxhash64(w.item_id, w.query, :seed), :synthetic_share);
