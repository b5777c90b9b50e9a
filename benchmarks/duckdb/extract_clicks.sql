-- sql/extract_clicks_days.sql and sql/extract_clicks.sql in DuckDB's dialect: the same rules in the same order, the same
-- numbers. Three things are less work here than there: text is lower-cased after NFC (DuckDB has neither NFKC nor case
-- folding), the patterns of personal data have no look-around (RE2 has none), and clicks have no weight.
-- Parameters ($name): log, catalogue (globs), salt, skew_seconds, bot_requests_per_day, bot_requests_per_minute, bot_clicks,
-- bot_dwell_seconds.

CREATE MACRO normalise_query(text) AS (
  CASE
    WHEN regexp_matches(lower(nfc_normalize(text)), '@|[0-9](?:[^0-9]{0,3}[0-9]){6}') THEN regexp_replace(
      regexp_replace(
        trim(regexp_replace(lower(nfc_normalize(text)), '[\s\p{Z}\x1C-\x1F\x{85}]+', ' ', 'g')),
        '[^ <>@,;:]{1,64}@[^ <>@,;:]{1,255}\.[^ <>@.,;:]{2,24}', '<email>', 'g'
      ),
      '\+?[0-9](?:[ ()./-]{0,2}[0-9]){9,18}', '<phone>', 'g'
    )
    ELSE trim(regexp_replace(lower(nfc_normalize(text)), '[\s\p{Z}\x1C-\x1F\x{85}]+', ' ', 'g'))
  END
);

CREATE VIEW checked_events AS
WITH hashed_events AS (
  SELECT
    dt, event_time::TIMESTAMP AS event_time, event, request_id, session_id, left(sha256($salt || user_id), 16) AS shopper,
    normalise_query(query) AS query, item_id, position
  FROM read_parquet($log, hive_partitioning = true, hive_types = {'dt': DATE})
)
SELECT
  *,
  CASE
    WHEN event_time IS NULL OR event IS NULL OR request_id IS NULL OR session_id IS NULL
      OR shopper IS NULL OR query IS NULL OR item_id IS NULL OR position IS NULL THEN 'null_field'
    WHEN event NOT IN ('impression', 'click', 'cart', 'order') THEN 'unknown_event'
    WHEN position < 1 THEN 'bad_position'
    WHEN query = '' THEN 'empty_query'
    WHEN length(query) > 500 THEN 'long_query'
    WHEN event_time < dt::TIMESTAMP - to_seconds($skew_seconds)
      OR event_time >= dt::TIMESTAMP + INTERVAL 1 DAY + to_seconds($skew_seconds) THEN 'wrong_day'
  END AS broken_rule
FROM hashed_events;

CREATE TEMP TABLE judged_events AS
WITH numbered_events AS (
  SELECT
    *,
    coalesce(lag(event) OVER steps = event AND lag(position) OVER steps = position, false) AS is_repeated,
    coalesce(
      lag(row(event, position, event_time, session_id, shopper, query)) OVER steps
        = row(event, position, event_time, session_id, shopper, query),
      false
    ) AS is_copy,
    min(CASE WHEN event = 'impression' THEN row(event_time, position) END) OVER (
      PARTITION BY dt, request_id, item_id, broken_rule
    ) AS first_shown,
    min(CASE WHEN event = 'impression' THEN row(event_time, position) END) OVER (
      PARTITION BY dt, request_id, item_id, broken_rule, position
    ) AS shown_there
  FROM checked_events
  WINDOW steps AS (
    PARTITION BY dt, request_id, item_id, broken_rule
    ORDER BY position, event, event_time, session_id, shopper, query
  )
)
SELECT
  dt, event_time, event, request_id, session_id, shopper, query, item_id, position,
  coalesce(shown_there, first_shown)[1] AS shown_at,
  coalesce(shown_there, first_shown)[2] AS shown_position,
  coalesce(broken_rule, CASE WHEN is_copy THEN 'duplicate_event' WHEN is_repeated THEN 'replayed_event' END) AS broken_rule,
  CASE
    WHEN event = 'impression' THEN NULL
    WHEN first_shown IS NULL AND event_time >= dt::TIMESTAMP + to_seconds($skew_seconds) THEN 'action_without_impression'
    WHEN event_time < coalesce(shown_there, first_shown)[1] THEN 'action_before_impression'
  END AS impossible
FROM numbered_events;

CREATE TEMP TABLE requests AS
SELECT
  dt, session_id, shopper,
  date_trunc('minute', min(event_time)) AS minute,
  count(*) FILTER (event = 'click') AS clicks,
  count(*) FILTER (
    event = 'click' AND event_time < shown_at + to_milliseconds(CAST(1000 * $bot_dwell_seconds AS BIGINT))
    AND impossible IS NULL
  ) AS hasty_clicks,
  count(impossible) AS impossible_actions
FROM judged_events
WHERE broken_rule IS NULL
GROUP BY dt, request_id, session_id, shopper;

CREATE VIEW bot_shoppers AS
SELECT dt, shopper, 'bot_rate' AS reason
FROM (SELECT dt, shopper, minute, count(*) AS requests FROM requests GROUP BY ALL)
GROUP BY dt, shopper
HAVING sum(requests) > $bot_requests_per_day OR max(requests) > $bot_requests_per_minute;

CREATE VIEW bot_sessions AS
SELECT *
FROM (
  SELECT
    dt, session_id,
    CASE
      WHEN sum(clicks) >= $bot_clicks AND sum(hasty_clicks) = sum(clicks) THEN 'bot_no_dwell'
      WHEN sum(impossible_actions) >= $bot_clicks THEN 'bot_impossible'
    END AS reason
  FROM requests
  GROUP BY dt, session_id
)
WHERE reason IS NOT NULL;

CREATE VIEW sorted_events AS
SELECT e.*, coalesce(e.broken_rule, u.reason, s.reason, e.impossible) AS reason
FROM judged_events AS e
LEFT JOIN bot_shoppers AS u ON u.dt = e.dt AND u.shopper = e.shopper
LEFT JOIN bot_sessions AS s ON s.dt = e.dt AND s.session_id = e.session_id;

CREATE TEMP TABLE clicks_by_position AS
SELECT
  dt AS day, query, item_id, coalesce(shown_position, position) AS position,
  count(*) FILTER (event = 'impression') AS impressions,
  count(*) FILTER (event = 'click') AS clicks,
  count(*) FILTER (event = 'cart') AS carts,
  count(*) FILTER (event = 'order') AS orders
FROM sorted_events
WHERE reason IS NULL
GROUP BY ALL;

CREATE TEMP TABLE event_counts AS
SELECT dt AS day, reason, count(*) AS rows
FROM sorted_events
GROUP BY ALL;

CREATE TEMP TABLE clicks AS
SELECT
  p.day, p.query, p.item_id,
  sum(p.impressions)::BIGINT AS impressions, sum(p.clicks)::BIGINT AS clicks, sum(p.carts)::BIGINT AS carts,
  sum(p.orders)::BIGINT AS orders
FROM clicks_by_position AS p
INNER JOIN read_parquet($catalogue) AS c ON c.item_id = p.item_id
GROUP BY ALL;
