-- Decoded pictures → the catalogue with its usable pictures, their thumbnails, and what could not be used.
-- Reads: usable_items, item_quarantine (prepare_items.sql), decoded_pictures (jobs/prepare_items.py).
-- Gives: catalogue, pictures, quarantine.

CREATE OR REPLACE TEMPORARY VIEW item_images AS
SELECT
  item_id,
  transform(sort_array(collect_list(struct(frame, file))), picture -> picture.file) AS images
FROM decoded_pictures
WHERE reason IS NULL
GROUP BY item_id;

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
  i.updated_at
FROM usable_items AS i
LEFT JOIN item_images AS p ON p.item_id = i.item_id;

CREATE OR REPLACE TEMPORARY VIEW pictures AS
SELECT item_id, frame, picture_digest, thumbnail
FROM decoded_pictures
WHERE reason IS NULL;

CREATE OR REPLACE TEMPORARY VIEW quarantine AS
SELECT source, row_key, reason, detail FROM item_quarantine
UNION ALL
SELECT
  'pictures' AS source,
  concat(item_id, '/', coalesce(file, '')) AS row_key,
  reason,
  left(detail, 200) AS detail
FROM decoded_pictures
WHERE reason IS NOT NULL;
