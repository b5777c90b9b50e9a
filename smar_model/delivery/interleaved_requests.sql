-- One day of the log, judged (check_click_log.sql) → who won which interleaved request, by team draft; in DuckDB's dialect.
-- Reads: events (of one day, with team and version), judged_events (reason: NULL for what counts). Variable: day_start (microseconds).
-- Adds to: shopper_days (a row a pair, day and shopper), left_out (a row a reason).

CREATE OR REPLACE TEMP TABLE interleaved_events AS
SELECT e.number, e.event, e.request_id, e.user_id, e.item_id, e.team, e.version, nullif(j.reason, 'unknown_item') AS reason
FROM events AS e
JOIN judged_events AS j ON j.number = e.number
WHERE e.request_id IN (SELECT request_id FROM events WHERE team IS NOT NULL AND request_id IS NOT NULL);

CREATE OR REPLACE TEMP TABLE interleaved_requests AS
SELECT
  request_id,
  min(user_id) AS shopper,
  try_cast(min(version) FILTER (team = 'champion') AS INTEGER) AS champion,
  try_cast(min(version) FILTER (team = 'challenger') AS INTEGER) AS challenger,
  CASE
    WHEN count_if(team NOT IN ('champion', 'challenger')) > 0 THEN 'a team is neither champion nor challenger'
    WHEN count_if(team IS NOT NULL AND (version IS NULL OR NOT regexp_full_match(version, '[0-9]{1,9}'))) > 0
      THEN 'a team has no number of a version'
    WHEN count(DISTINCT user_id) > 1 THEN 'of several shoppers'
    WHEN count(DISTINCT version) FILTER (team = 'champion') > 1 OR count(DISTINCT version) FILTER (team = 'challenger') > 1
      THEN 'a team has several versions'
    WHEN count(DISTINCT (item_id, coalesce(team, ''))) > count(DISTINCT item_id) THEN 'an item is of both teams'
    WHEN count(DISTINCT team) < 2 THEN 'all items shown are of one team'
  END AS fault
FROM interleaved_events
WHERE event = 'impression' AND reason IS NULL
GROUP BY request_id;

-- What one version had left when the other had no more is of no team: nobody competed for it.
CREATE OR REPLACE TEMP TABLE shown_items AS
SELECT DISTINCT request_id, item_id, coalesce(team, 'neither') AS team
FROM interleaved_events
WHERE event = 'impression' AND reason IS NULL AND request_id IN (SELECT request_id FROM interleaved_requests WHERE fault IS NULL);

CREATE OR REPLACE TEMP TABLE credited_clicks AS
SELECT
  c.number,
  c.request_id,
  c.item_id,
  s.team,
  row_number() OVER (PARTITION BY c.request_id, c.item_id ORDER BY c.number) AS repetition
FROM interleaved_events AS c
LEFT JOIN shown_items AS s ON s.request_id = c.request_id AND s.item_id = c.item_id
WHERE c.event = 'click' AND c.reason IS NULL AND c.request_id IN (SELECT request_id FROM interleaved_requests WHERE fault IS NULL);

INSERT INTO shopper_days
SELECT
  getvariable('day')::DATE,
  champion,
  challenger,
  shopper,
  count(*),
  count_if(coalesce(by_challenger, 0) > coalesce(by_champion, 0)),
  count_if(coalesce(by_challenger, 0) < coalesce(by_champion, 0)),
  min(request_id)
FROM interleaved_requests
LEFT JOIN (
  SELECT request_id, count_if(team = 'challenger') AS by_challenger, count_if(team = 'champion') AS by_champion
  FROM credited_clicks
  WHERE repetition = 1
  GROUP BY request_id
) USING (request_id)
WHERE fault IS NULL
GROUP BY champion, challenger, shopper;

-- Requests.
INSERT INTO left_out
SELECT getvariable('day')::DATE, 'request', fault, count(*), min(request_id)
FROM interleaved_requests
WHERE fault IS NOT NULL
GROUP BY fault;

INSERT INTO left_out
SELECT getvariable('day')::DATE, 'request', coalesce(reason, 'no impression that day'), count(*), min(request_id)
FROM (
  SELECT request_id, min(reason) FILTER (event = 'impression') AS reason
  FROM interleaved_events
  GROUP BY request_id
)
WHERE request_id NOT IN (SELECT request_id FROM interleaved_requests)
GROUP BY 3;

INSERT INTO left_out
SELECT getvariable('day')::DATE, 'shopper', reason, count(DISTINCT user_id), min(user_id)
FROM interleaved_events
WHERE reason IN ('bot_rate', 'bot_no_dwell', 'bot_impossible')
GROUP BY reason;

-- Clicks of requests that count.
INSERT INTO left_out
SELECT getvariable('day')::DATE, 'click', reason, count(*), min(request_id || '/' || coalesce(item_id, '?'))
FROM interleaved_events
WHERE event = 'click' AND reason IS NOT NULL AND request_id IN (SELECT request_id FROM interleaved_requests WHERE fault IS NULL)
GROUP BY reason;

INSERT INTO left_out
SELECT
  getvariable('day')::DATE,
  'click',
  CASE
    WHEN team IS NULL THEN 'its item was not shown in that request'
    WHEN team = 'neither' THEN 'its item is of neither team'
    ELSE 'the item was clicked before in that request'
  END,
  count(*),
  min(request_id || '/' || item_id)
FROM credited_clicks
WHERE team IS NULL OR team = 'neither' OR repetition > 1
GROUP BY 3;
