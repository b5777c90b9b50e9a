-- What the checks of a run look at, from the tables that training will read: one long, small table of figures.
-- Reads: clicks, propensities, quarantine_counts (extract-clicks, prepare-items), catalogue (prepare-items),
--   synthetic_queries (generate-queries), fashion_labels (label-fashion).
-- Parameters: first_day, last_day (of the window), last_training_day, cutoff (first moment after training).
-- Gives: figures (figure, day, key, value), late_items, days_outside, differing_labels.

-- The words of a text; of scripts that put no spaces between words, the characters.
CREATE OR REPLACE TEMPORARY FUNCTION words_of(text STRING)
RETURNS ARRAY<STRING>
RETURN array_distinct(
  filter(
    split(
      regexp_replace(
        lower(text),
        r'([\p{IsHan}\p{IsHiragana}\p{IsKatakana}\p{IsThai}\p{IsLao}\p{IsKhmer}\p{IsMyanmar}])',
        ' $1 '
      ),
      r'[^\p{L}\p{M}\p{N}]+'
    ),
    word -> word <> ''
  )
);

CREATE OR REPLACE TEMPORARY VIEW day_events AS
SELECT day, sum(impressions) AS impressions, sum(clicks) AS clicks, sum(carts) AS carts, sum(orders) AS orders
FROM clicks
GROUP BY day;

CREATE OR REPLACE TEMPORARY VIEW clicked_words AS
SELECT
  c.day,
  c.query,
  c.item_id,
  c.clicks,
  i.department,
  words_of(c.query) AS query_words,
  words_of(concat_ws(' ', i.title, i.brand, i.category, array_join(map_values(i.attributes), ' '))) AS item_words
FROM clicks AS c
INNER JOIN catalogue AS i ON i.item_id = c.item_id
WHERE c.clicks > 0;

-- Read four times below.
CACHE LAZY TABLE clicked_words OPTIONS ('storageLevel' 'DISK_ONLY');

-- Agreement of clicks with titles: of the words of clicked queries, the share that stands in the clicked item's text,
-- beside the share to expect had the day's clicked items been dealt out to its queries at random. The latter is exact:
-- a word that A of N clicks ask for and that stands in the item of B of them would meet itself A · B / N times.
CREATE OR REPLACE TEMPORARY VIEW word_meetings AS
SELECT
  day,
  sum(clicks * size(array_intersect(query_words, item_words))) AS met,
  sum(clicks) AS clicks
FROM clicked_words
GROUP BY day;

CREATE OR REPLACE TEMPORARY VIEW day_words AS
SELECT day, word, sum(asked) AS asked, sum(written) AS written
FROM (
  SELECT day, explode(query_words) AS word, clicks AS asked, 0L AS written FROM clicked_words
  UNION ALL
  SELECT day, explode(item_words) AS word, 0L AS asked, clicks AS written FROM clicked_words
)
GROUP BY day, word;

CREATE OR REPLACE TEMPORARY VIEW chance_meetings AS
SELECT day, sum(CAST(asked AS DECIMAL(19, 0)) * CAST(written AS DECIMAL(19, 0))) AS products
FROM day_words
GROUP BY day;

-- Leakage: what training tables hold that was not known before the cutoff.
CREATE OR REPLACE TEMPORARY VIEW late_items AS
SELECT s.item_id AS key, s.rows
FROM (SELECT item_id, count(*) AS rows FROM synthetic_queries GROUP BY item_id) AS s
LEFT ANTI JOIN (SELECT item_id FROM catalogue WHERE updated_at < :cutoff) AS known ON known.item_id = s.item_id;

-- How much of what was read may be trained on: items whose text stood before the cutoff, those of them that queries were
-- drawn from, clicks of the training days on them.
CREATE OR REPLACE TEMPORARY VIEW trainable_counts AS
SELECT *
FROM (
  SELECT
    count(*) AS items,
    count_if(i.updated_at < :cutoff) AS known_items,
    count_if(i.updated_at < :cutoff AND s.item_id IS NOT NULL) AS items_with_queries
  FROM catalogue AS i
  LEFT JOIN (SELECT DISTINCT item_id FROM synthetic_queries) AS s ON s.item_id = i.item_id
)
CROSS JOIN (
  SELECT
    coalesce(sum(c.clicks), 0) AS clicks,
    coalesce(sum(c.clicks) FILTER (WHERE i.updated_at < :cutoff), 0) AS known_clicks
  FROM clicks AS c
  INNER JOIN catalogue AS i ON i.item_id = c.item_id
  WHERE c.day BETWEEN :first_day AND :last_training_day
);

CREATE OR REPLACE TEMPORARY VIEW days_outside AS
SELECT CAST(day AS STRING) AS key, count(*) AS rows
FROM clicks
WHERE day NOT BETWEEN :first_day AND :last_day
GROUP BY day;

CREATE OR REPLACE TEMPORARY VIEW differing_labels AS
SELECT l.query AS key, 1L AS rows
FROM fashion_labels AS l
LEFT JOIN (
  SELECT query, sum(clicks) AS clicks
  FROM clicks
  WHERE day BETWEEN :first_day AND :last_training_day AND clicks > 0
  GROUP BY query
) AS c ON c.query = l.query
WHERE l.clicks <> coalesce(c.clicks, 0);

CREATE OR REPLACE TEMPORARY VIEW figures AS
SELECT kind AS figure, day, CAST(NULL AS STRING) AS key, CAST(value AS DOUBLE) AS value
FROM day_events UNPIVOT (value FOR kind IN (impressions, clicks, carts, orders))
UNION ALL
SELECT figure, day, NULL, value
FROM (
  SELECT day, CAST(met AS DOUBLE) AS met, CAST(clicks AS DOUBLE) AS clicks_with_words FROM word_meetings
) UNPIVOT (value FOR figure IN (met, clicks_with_words))
UNION ALL
SELECT 'met_by_chance', day, NULL, CAST(products AS DOUBLE) FROM chance_meetings
UNION ALL
SELECT if(day = :last_day, 'department_last', 'department_before'), NULL, department, CAST(sum(clicks) AS DOUBLE)
FROM clicked_words
GROUP BY day = :last_day, department
UNION ALL
SELECT 'quarantined', day, concat(source, '/', reason), CAST(sum(rows) AS DOUBLE)
FROM quarantine_counts
GROUP BY source, day, reason
UNION ALL
SELECT figure, NULL, CAST(position AS STRING), CAST(value AS DOUBLE)
FROM (SELECT position, impressions AS shown_at, clicks AS clicked_at FROM propensities)
UNPIVOT (value FOR figure IN (shown_at, clicked_at))
UNION ALL
SELECT 'labels', NULL, CASE WHEN is_visual THEN 'visual' WHEN NOT is_visual THEN 'other' ELSE 'unsure' END,
  CAST(count(*) AS DOUBLE)
FROM fashion_labels
GROUP BY is_visual
UNION ALL
SELECT 'trainable', NULL, key, CAST(value AS DOUBLE)
FROM trainable_counts UNPIVOT (value FOR key IN (items, known_items, items_with_queries, clicks, known_clicks))
UNION ALL
SELECT 'leak', NULL, 'late_items', CAST(coalesce(sum(rows), 0) AS DOUBLE) FROM late_items
UNION ALL
SELECT 'leak', NULL, 'days_outside', CAST(coalesce(sum(rows), 0) AS DOUBLE) FROM days_outside
UNION ALL
SELECT 'leak', NULL, 'differing_labels', CAST(coalesce(sum(rows), 0) AS DOUBLE) FROM differing_labels;
