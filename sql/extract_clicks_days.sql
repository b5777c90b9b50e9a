-- Days of the delivered log → what shoppers did on each, by place in the list, and the events not used, each with one
-- reason. No rule looks beyond its day, so that a day's result never depends on which others are read with it.
-- Reads: delivered_events (with `dt`, the day of the event's folder).
-- Parameters: salt, catalogue_numbers (array: numbers of the catalogue that shoppers typed), kinds (array: the known events), skew_seconds, bot_requests_per_day, bot_requests_per_minute,
--   bot_clicks, bot_dwell_seconds, lists_per_day (jobs/extract_click_days.py).
-- Gives: clicks_by_position, shown_lists, quarantine_samples (20 of each day and reason, with `rows`, how many there are).
--   Makes the session's tables normalised_queries, judged_events and requests.
--
-- The first rule that an event breaks is its reason:
--   null_field                a field is missing
--   unknown_event             not one of the known kinds
--   bad_position              not 1 or more
--   empty_query               nothing but white space
--   long_query                over 500 characters
--   wrong_day                 further outside the folder's day than clocks differ
--   duplicate_event           equal to another one in all columns; one is kept
--   replayed_event            same request, item, event and position as an earlier one; the first is kept
--   bot_rate                  all that a shopper did on a day with too many requests, or too many in a minute
--   bot_no_dwell              all of a session in which every click came too soon after its impression
--   bot_impossible            all of a session in which the next two rules were broken again and again
--   action_without_impression a click, cart or order on an item that its request did not show
--   action_before_impression  or not yet
-- Two reasons come later, over all days: the catalogue may lack the item (sql/extract_clicks.sql).

-- A query stands in every event of its request, and of others: its form is made once.
DROP TABLE IF EXISTS normalised_queries;

CREATE TABLE normalised_queries USING parquet AS
SELECT typed, normalise_query(typed, CAST(:catalogue_numbers AS ARRAY<STRING>)) AS query
FROM (SELECT DISTINCT query AS typed FROM delivered_events WHERE query IS NOT NULL);

-- Ids of shoppers are hashed before anything else is done with them.
CREATE OR REPLACE TEMPORARY VIEW hashed_events AS
SELECT
  dt,
  event_time,
  event,
  request_id,
  session_id,
  left(sha2(concat(:salt, user_id), 256), 16) AS shopper,
  -- Of interleaved lists alone, whose ids are keyed hashes already: the same shopper on all days.
  if(team IS NULL, NULL, left(sha2(user_id, 256), 16)) AS lasting_shopper,
  version AS answered_by,
  routing,
  team,
  n.query,
  item_id,
  position
FROM delivered_events AS e
LEFT JOIN normalised_queries AS n ON n.typed = e.query;

-- From here on the events of a request lie together: all rules below but those for bots look at one request. Numbers in
-- front of texts make sorting cheap: few texts are compared then.
CREATE OR REPLACE TEMPORARY VIEW checked_events AS
SELECT
  /*+ REPARTITION(dt, request_id) */ *,
  xxhash64(dt, request_id, item_id) AS pair,
  xxhash64(event_time, session_id, query) AS version,
  CASE
    WHEN event_time IS NULL OR event IS NULL OR request_id IS NULL OR session_id IS NULL
      OR shopper IS NULL OR query IS NULL OR item_id IS NULL OR position IS NULL THEN 'null_field'
    WHEN NOT array_contains(:kinds, event) THEN 'unknown_event'
    WHEN position < 1 THEN 'bad_position'
    WHEN query = '' THEN 'empty_query'
    WHEN length(query) > 500 THEN 'long_query'
    WHEN event_time < dt - make_dt_interval(0, 0, 0, :skew_seconds)
      OR event_time >= dt + make_dt_interval(1, 0, 0, :skew_seconds) THEN 'wrong_day'
  END AS broken_rule
FROM hashed_events;

CREATE OR REPLACE TEMPORARY VIEW numbered_events AS
SELECT
  *,
  coalesce(lag(event) OVER steps = event AND lag(position) OVER steps = position, false) AS is_repeated,
  coalesce(
    lag(event_time) OVER steps = event_time AND lag(version) OVER steps = version
      AND lag(session_id) OVER steps = session_id AND lag(shopper) OVER steps = shopper AND lag(query) OVER steps = query,
    false
  ) AS is_same
FROM checked_events
WINDOW steps AS (
  PARTITION BY pair, dt, request_id, item_id, broken_rule
  ORDER BY position, event, event_time, version, session_id, shopper, query
);

-- The impression of an action is that of its item in its request, at its own place if the list shows the item twice.
CREATE OR REPLACE TEMPORARY VIEW joined_events AS
SELECT
  *,
  min(if(event = 'impression', struct(event_time, position), NULL)) OVER (
    PARTITION BY pair, dt, request_id, item_id, broken_rule
    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
  ) AS first_shown,
  min(if(event = 'impression', struct(event_time, position), NULL)) OVER (
    PARTITION BY pair, dt, request_id, item_id, broken_rule, position
    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
  ) AS shown_there
FROM numbered_events;

-- A list shown before midnight lies in the folder of the day before: what happens soon after midnight may belong to it.
-- A table of the session, in files: it is read three times below.
DROP TABLE IF EXISTS judged_events;

CREATE TABLE judged_events USING parquet AS
SELECT
  dt,
  event_time,
  event,
  request_id,
  session_id,
  shopper,
  lasting_shopper,
  answered_by,
  routing,
  team,
  query,
  item_id,
  position,
  if(event = 'impression', NULL, coalesce(shown_there, first_shown).event_time) AS shown_at,
  if(event = 'impression', NULL, coalesce(shown_there, first_shown).position) AS shown_position,
  coalesce(broken_rule, if(is_repeated, if(is_same, 'duplicate_event', 'replayed_event'), NULL)) AS broken_rule,
  CASE
    WHEN event = 'impression' THEN NULL
    WHEN first_shown IS NULL AND event_time >= dt + make_dt_interval(0, 0, 0, :skew_seconds)
      THEN 'action_without_impression'
    WHEN event_time < coalesce(shown_there, first_shown).event_time THEN 'action_before_impression'
  END AS impossible
FROM joined_events;

DROP TABLE IF EXISTS requests;

CREATE TABLE requests USING parquet AS
SELECT
  dt,
  request_id,
  session_id,
  shopper,
  count_if(event = 'click' AND impossible IS NULL) > 0 AS is_clicked,
  count(team) > 0 AS is_interleaved,
  date_trunc('minute', min(event_time)) AS minute,
  count_if(event = 'click') AS clicks,
  count_if(event = 'click' AND event_time < shown_at + make_dt_interval(0, 0, 0, :bot_dwell_seconds)
    AND impossible IS NULL) AS hasty_clicks,
  count(impossible) AS impossible_actions
FROM judged_events
WHERE broken_rule IS NULL
GROUP BY dt, request_id, session_id, shopper;

CREATE OR REPLACE TEMPORARY VIEW bot_shoppers AS
SELECT dt, shopper, 'bot_rate' AS reason
FROM (SELECT dt, shopper, minute, count(*) AS requests FROM requests GROUP BY dt, shopper, minute)
GROUP BY dt, shopper
HAVING sum(requests) > :bot_requests_per_day OR max(requests) > :bot_requests_per_minute;

CREATE OR REPLACE TEMPORARY VIEW bot_sessions AS
SELECT *
FROM (
  SELECT
    dt,
    session_id,
    CASE
      WHEN sum(clicks) >= :bot_clicks AND sum(hasty_clicks) = sum(clicks) THEN 'bot_no_dwell'
      WHEN sum(impossible_actions) >= :bot_clicks THEN 'bot_impossible'
    END AS reason
  FROM requests
  GROUP BY dt, session_id
)
WHERE reason IS NOT NULL;

CREATE OR REPLACE TEMPORARY VIEW sorted_events AS
SELECT
  /*+ BROADCAST(u), BROADCAST(s) */ e.*,
  coalesce(e.broken_rule, u.reason, s.reason, e.impossible) AS reason
FROM judged_events AS e
LEFT JOIN bot_shoppers AS u ON u.dt = e.dt AND u.shopper = e.shopper
LEFT JOIN bot_sessions AS s ON s.dt = e.dt AND s.session_id = e.session_id;

-- Shuffled first: few rows fall together, and Spark would otherwise aggregate twice, before the shuffle in vain.
CREATE OR REPLACE TEMPORARY VIEW kept_events AS
SELECT
  /*+ REPARTITION(day, query, item_id, position) */ dt AS day,
  query,
  item_id,
  coalesce(shown_position, position) AS position,
  event
FROM sorted_events
WHERE reason IS NULL;

CREATE OR REPLACE TEMPORARY VIEW clicks_by_position AS
SELECT
  day,
  query,
  item_id,
  position,
  count_if(event = 'impression') AS impressions,
  count_if(event = 'click') AS clicks,
  count_if(event = 'cart') AS carts,
  count_if(event = 'order') AS orders
FROM kept_events
GROUP BY day, query, item_id, position;

-- Of the requests that no bot made, some of each day by the hash of their id, those with a click first; and all interleaved ones.
CREATE OR REPLACE TEMPORARY VIEW sound_requests AS
SELECT /*+ BROADCAST(u), BROADCAST(s) */ r.dt, r.request_id, r.is_clicked, r.is_interleaved
FROM requests AS r
LEFT ANTI JOIN bot_shoppers AS u ON u.dt = r.dt AND u.shopper = r.shopper
LEFT ANTI JOIN bot_sessions AS s ON s.dt = r.dt AND s.session_id = r.session_id;

CREATE OR REPLACE TEMPORARY VIEW drawn_requests AS
SELECT xxhash64(dt, request_id) AS request
FROM (
  SELECT
    dt,
    request_id,
    row_number() OVER (
      PARTITION BY dt
      ORDER BY is_clicked DESC, xxhash64(request_id), request_id
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS number
  FROM sound_requests
)
WHERE number <= :lists_per_day
UNION
SELECT xxhash64(dt, request_id) FROM sound_requests WHERE is_interleaved;

-- What was done with an item counts at the place where it was shown; team and version are those of the impression.
CREATE OR REPLACE TEMPORARY VIEW shown_places AS
SELECT /*+ BROADCAST(d) */
  e.dt AS day,
  e.request_id,
  coalesce(e.shown_position, e.position) AS position,
  e.item_id,
  min(if(e.event = 'impression', e.query, NULL)) AS query,
  min(e.lasting_shopper) AS shopper,
  min(if(e.event = 'impression', e.routing, NULL)) AS routing,
  coalesce(min(if(e.event = 'impression', e.answered_by, NULL)), '') AS version,
  coalesce(min(if(e.event = 'impression', e.team, NULL)), '') AS team,
  CAST(count_if(e.event = 'click') AS INT) AS clicks,
  CAST(count_if(e.event = 'order') AS INT) AS orders
FROM sorted_events AS e
LEFT SEMI JOIN drawn_requests AS d ON d.request = xxhash64(e.dt, e.request_id)
WHERE e.reason IS NULL
GROUP BY e.dt, e.request_id, coalesce(e.shown_position, e.position), e.item_id
HAVING count_if(e.event = 'impression') > 0;

CREATE OR REPLACE TEMPORARY VIEW shown_lists AS
SELECT
  day,
  request_id,
  shopper,
  query,
  routing,
  places.item_id AS items,
  places.position AS positions,
  places.clicks AS clicks,
  places.orders AS orders,
  places.version AS versions,
  places.team AS teams
FROM (
  SELECT
    day,
    request_id,
    min(shopper) AS shopper,
    min(query) AS query,
    min(routing) AS routing,
    sort_array(collect_list(struct(position, item_id, clicks, orders, version, team))) AS places
  FROM shown_places
  GROUP BY day, request_id
);

-- No detail holds what a shopper typed unmasked.
CREATE OR REPLACE TEMPORARY VIEW unused_events AS
SELECT
  dt AS day,
  left(concat_ws('/', coalesce(request_id, '?'), coalesce(item_id, '?'), coalesce(event, '?')), 1000) AS row_key,
  reason,
  left(
    CASE reason
      WHEN 'null_field' THEN concat_ws(
        ', ',
        if(event_time IS NULL, 'event_time', NULL),
        if(event IS NULL, 'event', NULL),
        if(request_id IS NULL, 'request_id', NULL),
        if(session_id IS NULL, 'session_id', NULL),
        if(shopper IS NULL, 'user_id', NULL),
        if(query IS NULL, 'query', NULL),
        if(item_id IS NULL, 'item_id', NULL),
        if(position IS NULL, 'position', NULL)
      )
      WHEN 'unknown_event' THEN event
      WHEN 'bad_position' THEN CAST(position AS STRING)
      WHEN 'empty_query' THEN 'white space'
      WHEN 'long_query' THEN query
      WHEN 'wrong_day' THEN concat('event_time ', event_time, ' in dt=', dt)
      WHEN 'action_before_impression' THEN concat('event_time ', event_time, ', shown ', shown_at)
      ELSE concat('session ', session_id, ', event_time ', event_time, ', position ', position)
    END,
    200
  ) AS detail
FROM sorted_events
WHERE reason IS NOT NULL;

CREATE OR REPLACE TEMPORARY VIEW quarantine_samples AS
SELECT day, 'click_log' AS source, row_key, reason, detail, rows
FROM (
  SELECT
    *,
    count(*) OVER (PARTITION BY day, reason ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS rows,
    row_number() OVER (
      PARTITION BY day, reason
      ORDER BY xxhash64(row_key, detail), row_key, detail
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS number
  FROM unused_events
)
WHERE number <= 20;
