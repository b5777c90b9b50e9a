-- Judged pictures → the catalogue with its usable pictures, their thumbnails, and what could not be used.
-- Reads: usable_items, item_quarantine (prepare_items.sql), looks, judged_pictures (judge_pictures.sql).
-- Parameters: samples (rows a reason that the quarantine keeps), maximum_frames (pictures of an item that its embedding uses).
-- Gives: catalogue, pictures, quarantine, quarantine_counts.

CREATE OR REPLACE TEMPORARY VIEW pictures AS
SELECT j.item_id, j.frame, j.picture_digest, j.perceptual_hash, j.signature, j.uninformative, l.thumbnail
FROM judged_pictures AS j
INNER JOIN looks AS l ON l.picture_digest = j.picture_digest
WHERE j.reason IS NULL;

CREATE OR REPLACE TEMPORARY VIEW item_images AS
SELECT
  item_id,
  transform(sort_array(collect_list(struct(frame, file))), picture -> picture.file) AS images,
  CAST(count_if(uninformative IS NULL) AS INT) AS informative_pictures,
  transform(
    sort_array(
      collect_list(struct(frame, picture_digest)) FILTER (WHERE uninformative IS NULL AND frame < :maximum_frames)
    ),
    picture -> picture.picture_digest
  ) AS embedded_pictures
FROM judged_pictures
WHERE reason IS NULL
GROUP BY item_id;

-- What tells an item's text from any other; the order of its attributes says nothing.
CREATE OR REPLACE TEMPORARY VIEW item_texts AS
SELECT
  *,
  sha2(
    to_json(struct(title, category, brand, sort_array(map_entries(attributes)) AS attributes)), 256
  ) AS text_digest
FROM usable_items;

-- An item whose pictures are all missing or broken keeps its text (design, decision 7).
CREATE OR REPLACE TEMPORARY VIEW catalogue AS
SELECT
  i.item_id,
  i.title,
  i.category,
  i.department,
  i.brand,
  i.attributes,
  coalesce(p.images, array()) AS images,
  coalesce(p.informative_pictures, 0) AS informative_pictures,
  i.text_digest,
  sha2(concat_ws(' ', i.text_digest, p.embedded_pictures), 256) AS content_digest,
  i.updated_at
FROM item_texts AS i
LEFT JOIN item_images AS p ON p.item_id = i.item_id;

CREATE OR REPLACE TEMPORARY VIEW unused_rows AS
SELECT source, row_key, reason, detail FROM item_quarantine
UNION ALL
SELECT
  'pictures' AS source,
  left(concat(item_id, '/', coalesce(file, '')), 1000) AS row_key,
  reason,
  left(detail, 200) AS detail
FROM judged_pictures
WHERE reason IS NOT NULL;

CREATE OR REPLACE TEMPORARY VIEW quarantine_counts AS
SELECT source, CAST(NULL AS DATE) AS day, reason, count(*) AS rows
FROM unused_rows
GROUP BY source, reason;

-- Which rows are kept as samples is decided by a hash: not the first ones, and the same ones each time.
CREATE OR REPLACE TEMPORARY VIEW quarantine AS
SELECT source, row_key, reason, detail
FROM (
  SELECT
    *,
    row_number() OVER (
      PARTITION BY source, reason
      ORDER BY xxhash64(row_key, detail), row_key, detail
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS sample
  FROM unused_rows
)
WHERE sample <= :samples;
