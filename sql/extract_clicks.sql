-- Delivered events → what shoppers did, one row a query, item and day, and the events not used, each with one reason.
-- Reads: events (the delivery, with `dt`, the day of its folder), catalogue (prepare-items).
-- Parameters: events (array: the known kinds), bot_requests (the most requests a shopper makes on a day).
-- Gives: clicks, quarantine.

-- Events that are equal in every column become one row with their number.
CREATE OR REPLACE TEMPORARY VIEW counted_events AS
SELECT dt, event_time, event, request_id, session_id, user_id, query, item_id, position, count(*) AS copies
FROM events
GROUP BY dt, event_time, event, request_id, session_id, user_id, query, item_id, position;

CREATE OR REPLACE TEMPORARY VIEW named_events AS
SELECT *, normalise_query(query) AS normalised
FROM counted_events;

-- The first rule that an event breaks is its reason.
CREATE OR REPLACE TEMPORARY VIEW judged_events AS
SELECT
  e.*,
  CASE
    WHEN e.event_time IS NULL OR e.event IS NULL OR e.request_id IS NULL OR e.session_id IS NULL
      OR e.user_id IS NULL OR e.query IS NULL OR e.item_id IS NULL OR e.position IS NULL THEN 'null_field'
    WHEN NOT array_contains(:events, e.event) THEN 'unknown_event'
    WHEN e.position < 1 THEN 'bad_position'
    WHEN e.normalised = '' THEN 'empty_query'
    WHEN length(e.normalised) > 500 THEN 'long_query'
    WHEN CAST(e.event_time AS DATE) <> e.dt THEN 'wrong_day'
    WHEN c.item_id IS NULL THEN 'unknown_item'
  END AS broken_rule
FROM named_events AS e
LEFT JOIN catalogue AS c ON c.item_id = e.item_id;

-- Read three times below.
CACHE LAZY TABLE judged_events OPTIONS ('storageLevel' 'DISK_ONLY');

CREATE OR REPLACE TEMPORARY VIEW bots AS
SELECT dt, user_id
FROM judged_events
WHERE broken_rule IS NULL
GROUP BY dt, user_id
HAVING count(DISTINCT request_id) > :bot_requests;

CREATE OR REPLACE TEMPORARY VIEW sorted_events AS
SELECT e.*, coalesce(e.broken_rule, if(b.user_id IS NOT NULL, 'bot', NULL)) AS reason
FROM judged_events AS e
LEFT JOIN bots AS b ON b.dt = e.dt AND b.user_id = e.user_id;

CREATE OR REPLACE TEMPORARY VIEW clicks AS
SELECT
  dt AS day,
  normalised AS query,
  item_id,
  count_if(event = 'impression') AS impressions,
  count_if(event = 'click') AS clicks,
  count_if(event = 'cart') AS carts,
  count_if(event = 'order') AS orders
FROM sorted_events
WHERE reason IS NULL
GROUP BY dt, normalised, item_id;

-- One row a copy. Of a sound event one copy is kept and the others are duplicates; of any other none is kept.
CREATE OR REPLACE TEMPORARY VIEW unused_events AS
SELECT
  dt, event_time, event, request_id, session_id, user_id, query, item_id, position, unused.reason
FROM sorted_events
LATERAL VIEW explode(
  if(
    broken_rule IS NOT NULL,
    array_repeat(broken_rule, CAST(copies AS INT)),
    concat(
      if(sorted_events.reason IS NULL, CAST(array() AS ARRAY<STRING>), array(sorted_events.reason)),
      array_repeat('duplicate_event', CAST(copies - 1 AS INT))
    )
  )
) unused AS reason
WHERE sorted_events.reason IS NOT NULL OR copies > 1;

CREATE OR REPLACE TEMPORARY VIEW quarantine AS
SELECT
  'click_log' AS source,
  concat_ws('/', coalesce(request_id, '?'), coalesce(item_id, '?'), coalesce(event, '?')) AS row_key,
  reason,
  left(
    CASE reason
      WHEN 'null_field' THEN concat_ws(
        ', ',
        if(event_time IS NULL, 'event_time', NULL),
        if(event IS NULL, 'event', NULL),
        if(request_id IS NULL, 'request_id', NULL),
        if(session_id IS NULL, 'session_id', NULL),
        if(user_id IS NULL, 'user_id', NULL),
        if(query IS NULL, 'query', NULL),
        if(item_id IS NULL, 'item_id', NULL),
        if(position IS NULL, 'position', NULL)
      )
      WHEN 'unknown_event' THEN event
      WHEN 'bad_position' THEN CAST(position AS STRING)
      WHEN 'empty_query' THEN query
      WHEN 'long_query' THEN query
      WHEN 'unknown_item' THEN item_id
      WHEN 'bot' THEN concat('user_id ', user_id)
      ELSE concat('event_time ', event_time, ' in dt=', dt)
    END,
    200
  ) AS detail
FROM unused_events;
