-- Which queries are for departments where pictures matter, from what was clicked after them.
-- Reads: clicks (extract-clicks), catalogue (prepare-items).
-- Parameters: first_day, last_day (of training), visual_departments (array), minimum_clicks, unsure_from, unsure_to.
-- Gives: fashion_labels.

CREATE OR REPLACE TEMPORARY VIEW query_clicks AS
SELECT
  c.query,
  sum(c.clicks) AS clicks,
  sum(if(array_contains(:visual_departments, i.department), c.clicks, 0)) / sum(c.clicks) AS visual_share
FROM clicks AS c
INNER JOIN catalogue AS i ON i.item_id = c.item_id
WHERE c.day BETWEEN :first_day AND :last_day AND c.clicks > 0
GROUP BY c.query;

CREATE OR REPLACE TEMPORARY VIEW fashion_labels AS
SELECT
  query,
  clicks,
  visual_share,
  CASE WHEN visual_share >= :unsure_to THEN true WHEN visual_share <= :unsure_from THEN false END AS is_visual
FROM query_clicks
WHERE clicks >= :minimum_clicks;
