-- One day of the delivered log → the reason why each event is not used, by the rules of sql/extract_clicks_days.sql, and figures.
-- In DuckDB's dialect; the numbers are the same (tests/jobs/test_shop_check_agrees.py). Whole rows are compared only where a key repeats.
-- Reads: day_files (first_number of each, name), events (of one day; event_time in microseconds since 1970), bad_queries (query, rule), usable_items.
-- Variables: kinds, day_start (microseconds), skew, bot_requests_per_day, bot_requests_per_minute, bot_clicks, bot_dwell.
-- Gives: judged_events (reason: NULL for what is kept), event_details (what breaks a rule). Macro `normalised`: the form of a query (defined by the caller).

CREATE OR REPLACE TEMP TABLE checked_events AS
SELECT
  e.*,
  hash(request_id, item_id, position, event) AS key,
  CASE
    WHEN event_time IS NULL OR event IS NULL OR request_id IS NULL OR session_id IS NULL
      OR user_id IS NULL OR e.query IS NULL OR item_id IS NULL OR position IS NULL THEN 'null_field'
    WHEN NOT list_contains(getvariable('kinds'), event) THEN 'unknown_event'
    WHEN position < 1 THEN 'bad_position'
    WHEN b.rule IS NOT NULL THEN b.rule
    WHEN event_time < getvariable('day_start') - getvariable('skew')
      OR event_time >= getvariable('day_start') + 86400000000 + getvariable('skew') THEN 'wrong_day'
  END AS broken_rule
FROM events AS e
LEFT JOIN bad_queries AS b ON b.query = e.query;

CREATE OR REPLACE TEMP TABLE repeated_events AS
WITH candidates AS (
  SELECT number, request_id, item_id, position, event, event_time, session_id, user_id, normalised(query) AS query
  FROM checked_events
  WHERE broken_rule IS NULL AND key IN (SELECT key FROM checked_events WHERE broken_rule IS NULL GROUP BY key HAVING count(*) > 1)
)
SELECT
  number,
  CASE
    WHEN lag((event_time, session_id, user_id, query)) OVER steps = (event_time, session_id, user_id, query)
      THEN 'duplicate_event'
    ELSE 'replayed_event'
  END AS reason
FROM candidates
WINDOW steps AS (PARTITION BY request_id, item_id, position, event ORDER BY event_time, session_id, user_id, query, number)
QUALIFY row_number() OVER steps > 1;

-- The impression of an action is that of its item in its request, at its own place if the list shows the item twice.
CREATE OR REPLACE TEMP TABLE actions AS
WITH acted AS (
  SELECT number, request_id, item_id, position, event, event_time
  FROM checked_events
  WHERE broken_rule IS NULL AND event <> 'impression'
),
shown AS (
  SELECT request_id, item_id, position, min(event_time) AS shown_at
  FROM checked_events
  WHERE broken_rule IS NULL AND event = 'impression'
    AND (request_id, item_id) IN (SELECT (request_id, item_id) FROM acted)
  GROUP BY request_id, item_id, position
),
first_shown AS (
  SELECT request_id, item_id, min(shown_at) AS shown_at FROM shown GROUP BY request_id, item_id
)
SELECT
  a.number,
  coalesce(s.shown_at, f.shown_at) AS shown_at,
  CASE
    WHEN f.shown_at IS NULL AND a.event_time >= getvariable('day_start') + getvariable('skew')
      THEN 'action_without_impression'
    WHEN a.event_time < coalesce(s.shown_at, f.shown_at) THEN 'action_before_impression'
  END AS impossible
FROM acted AS a
LEFT JOIN first_shown AS f ON f.request_id = a.request_id AND f.item_id = a.item_id
LEFT JOIN shown AS s ON s.request_id = a.request_id AND s.item_id = a.item_id AND s.position = a.position;

CREATE OR REPLACE TEMP TABLE requests AS
SELECT
  session_id,
  user_id,
  min(event_time) // 60000000 AS minute,
  count_if(event = 'click') AS clicks,
  count_if(event = 'click' AND event_time < shown_at + getvariable('bot_dwell') AND impossible IS NULL) AS hasty_clicks,
  count(impossible) AS impossible_actions
FROM checked_events AS e
LEFT JOIN actions AS a ON a.number = e.number
WHERE broken_rule IS NULL AND e.number NOT IN (SELECT number FROM repeated_events)
GROUP BY request_id, session_id, user_id;

CREATE OR REPLACE TEMP TABLE bot_shoppers AS
SELECT user_id
FROM (SELECT user_id, minute, count(*) AS requests FROM requests GROUP BY user_id, minute)
GROUP BY user_id
HAVING sum(requests) > getvariable('bot_requests_per_day') OR max(requests) > getvariable('bot_requests_per_minute');

CREATE OR REPLACE TEMP TABLE bot_sessions AS
SELECT *
FROM (
  SELECT
    session_id,
    CASE
      WHEN sum(clicks) >= getvariable('bot_clicks') AND sum(hasty_clicks) = sum(clicks) THEN 'bot_no_dwell'
      WHEN sum(impossible_actions) >= getvariable('bot_clicks') THEN 'bot_impossible'
    END AS reason
  FROM requests
  GROUP BY session_id
)
WHERE reason IS NOT NULL;

CREATE OR REPLACE TEMP VIEW judged_events AS
SELECT
  e.number,
  e.request_id,
  e.event,
  e.query,
  e.item_id,
  i.department,
  coalesce(
    e.broken_rule,
    r.reason,
    CASE WHEN u.user_id IS NOT NULL THEN 'bot_rate' END,
    s.reason,
    a.impossible,
    CASE WHEN i.item_id IS NULL THEN 'unknown_item' END
  ) AS reason
FROM checked_events AS e
LEFT JOIN repeated_events AS r ON r.number = e.number
LEFT JOIN actions AS a ON a.number = e.number
LEFT JOIN bot_shoppers AS u ON u.user_id = e.user_id
LEFT JOIN bot_sessions AS s ON s.session_id = e.session_id
LEFT JOIN usable_items AS i ON i.item_id = e.item_id;

INSERT INTO event_reasons
SELECT
  getvariable('day')::DATE AS day,
  reason,
  count(*) AS rows,
  arg_min(concat_ws('/', coalesce(request_id, '?'), coalesce(item_id, '?'), coalesce(event, '?')), number) AS example,
  min(number) AS first_number,
  count_if(event = 'impression') AS impressions,
  count_if(event = 'click') AS clicks
FROM judged_events
GROUP BY reason;

INSERT INTO clicked_queries
SELECT getvariable('day')::DATE, lower(trim(query)), count(*)
FROM judged_events
WHERE reason IS NULL AND event = 'click'
GROUP BY ALL;

INSERT INTO department_clicks
SELECT department, count(*)
FROM judged_events
WHERE reason IS NULL AND event = 'click'
GROUP BY ALL;

INSERT INTO event_details
SELECT getvariable('day')::DATE, broken_rule, detail, count(*), min(number)
FROM (
  SELECT
    number,
    broken_rule,
    unnest(CASE broken_rule
      WHEN 'null_field' THEN [
        CASE WHEN event_time IS NULL THEN 'event_time' END, CASE WHEN event IS NULL THEN 'event' END,
        CASE WHEN request_id IS NULL THEN 'request_id' END, CASE WHEN session_id IS NULL THEN 'session_id' END,
        CASE WHEN user_id IS NULL THEN 'user_id' END, CASE WHEN query IS NULL THEN 'query' END,
        CASE WHEN item_id IS NULL THEN 'item_id' END, CASE WHEN position IS NULL THEN 'position' END
      ]
      WHEN 'unknown_event' THEN [left(event, 40)]
      WHEN 'bad_position' THEN ['position ' || position]
      WHEN 'wrong_day' THEN [
        CASE WHEN event_time BETWEEN -62135596800000000 AND 253402300799999999
          THEN strftime(make_timestamp(event_time), '%Y-%m-%d') ELSE 'outside the years 1 to 9999' END
      ]
    END) AS detail
  FROM checked_events
  WHERE broken_rule IN ('null_field', 'unknown_event', 'bad_position', 'wrong_day')
)
WHERE detail IS NOT NULL
GROUP BY ALL
ORDER BY count(*) DESC, detail
LIMIT 100;

INSERT INTO event_details
SELECT getvariable('day')::DATE, reason, f.name, count(*), NULL
FROM judged_events AS e
ASOF JOIN day_files AS f ON e.number >= f.first_number
WHERE reason IS NOT NULL AND reason NOT IN ('null_field', 'unknown_event', 'bad_position', 'wrong_day')
GROUP BY ALL
HAVING (SELECT count(*) FROM day_files) > 1
ORDER BY count(*) DESC, f.name
LIMIT 100;
