-- Days of clicks by position → what shoppers did, one row a query, item and day, for items that the catalogue has.
-- Reads: clicks_by_position (of all days), catalogue (prepare-items).
-- Parameters: weights (array: what a click at each place counts, places further down as the last).
-- Gives: clicks, unknown_items (20 of each day, with `rows_of_day`, the events of all of them).

CREATE OR REPLACE TEMPORARY VIEW clicks AS
SELECT
  p.day,
  p.query,
  p.item_id,
  sum(p.impressions) AS impressions,
  sum(p.clicks) AS clicks,
  sum(p.carts) AS carts,
  sum(p.orders) AS orders,
  -- Decimals: their sum is the same in any order.
  CAST(
    sum(p.clicks * CAST(element_at(:weights, least(p.position, size(:weights))) AS DECIMAL(9, 6))) AS DOUBLE
  ) AS weight
FROM clicks_by_position AS p
INNER JOIN catalogue AS c ON c.item_id = p.item_id
GROUP BY p.day, p.query, p.item_id;

CREATE OR REPLACE TEMPORARY VIEW unknown_item_events AS
SELECT p.day, p.item_id, sum(p.impressions + p.clicks + p.carts + p.orders) AS rows
FROM clicks_by_position AS p
LEFT ANTI JOIN catalogue AS c ON c.item_id = p.item_id
GROUP BY p.day, p.item_id;

CREATE OR REPLACE TEMPORARY VIEW unknown_items AS
SELECT day, item_id, rows, rows_of_day
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
