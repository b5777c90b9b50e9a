-- Days of clicks by position → what shoppers did, one row a query, item and day, for items that the catalogue has.
-- Reads: clicks_by_position (of all days), catalogue (prepare-items).
-- Parameters: weights (array of BIGINT: what a click at each place counts, in millionths; places further down as the last).
-- Gives: clicks, unknown_items (20 of each day, with `rows_of_day`, the events of all of them).

-- Shuffled first: few rows fall together, and Spark would otherwise aggregate twice, before the shuffle in vain.
CREATE OR REPLACE TEMPORARY VIEW known_item_clicks AS
SELECT /*+ REPARTITION(p.day, p.query, p.item_id) */ p.*
FROM clicks_by_position AS p
LEFT SEMI JOIN catalogue AS c ON c.item_id = p.item_id;

CREATE OR REPLACE TEMPORARY VIEW clicks AS
SELECT
  day,
  query,
  item_id,
  sum(impressions) AS impressions,
  sum(clicks) AS clicks,
  sum(carts) AS carts,
  sum(orders) AS orders,
  -- Whole numbers: their sum is the same in any order.
  sum(clicks * element_at(:weights, least(position, size(:weights)))) / 1000000D AS weight
FROM known_item_clicks
GROUP BY day, query, item_id;

CREATE OR REPLACE TEMPORARY VIEW unknown_item_events AS
SELECT p.day, p.item_id, sum(p.impressions + p.clicks + p.carts + p.orders) AS rows
FROM clicks_by_position AS p
LEFT ANTI JOIN catalogue AS c ON c.item_id = p.item_id
GROUP BY p.day, p.item_id;

CREATE OR REPLACE TEMPORARY VIEW unknown_items AS
SELECT day, left(item_id, 1000) AS item_id, rows, rows_of_day
FROM (
  SELECT
    *,
    sum(rows) OVER (
      PARTITION BY day ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
    ) AS rows_of_day,
    row_number() OVER (
      PARTITION BY day ORDER BY rows DESC, item_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS number
  FROM unknown_item_events
)
WHERE number <= 20;
