-- Delivered items → usable items, each once, and the rows that are not used, each with one reason.
-- Reads: items (the delivery).
-- Gives: usable_items (one row an item, `images` as listed), item_quarantine, listed_pictures (place: 0 is the main one).

CREATE OR REPLACE TEMPORARY VIEW tidy_items AS
SELECT
  item_id,
  collapse_space(title) AS title,
  collapse_space(category) AS category,
  collapse_space(split(category, '>')[0]) AS department,
  collapse_space(brand) AS brand,
  coalesce(map_filter(attributes, (name, value) -> trim(value) <> ''), map()) AS attributes,
  coalesce(images, array()) AS images,
  updated_at
FROM items;

-- The first rule that a row breaks is its reason.
CREATE OR REPLACE TEMPORARY VIEW judged_items AS
SELECT
  *,
  CASE
    WHEN coalesce(trim(item_id), '') = '' THEN 'no_item_id'
    WHEN title = '' THEN 'no_title'
    WHEN length(title) > 1000 THEN 'long_title'
    WHEN coalesce(department, '') = '' THEN 'no_category'
    WHEN updated_at IS NULL THEN 'no_updated_at'
  END AS broken_rule
FROM tidy_items;

-- Of an item's sound rows the newest counts; rows of the same time are ordered by content, so that a repeated run
-- takes the same one.
CREATE OR REPLACE TEMPORARY VIEW ranked_items AS
SELECT
  *,
  row_number() OVER (
    PARTITION BY broken_rule, item_id
    ORDER BY updated_at DESC, to_json(struct(title, category, brand, attributes, images))
    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
  ) AS version
FROM judged_items;

CREATE OR REPLACE TEMPORARY VIEW usable_items AS
SELECT item_id, title, category, department, brand, attributes, images, updated_at
FROM ranked_items
WHERE broken_rule IS NULL AND version = 1;

CREATE OR REPLACE TEMPORARY VIEW item_quarantine AS
SELECT
  'items' AS source,
  coalesce(item_id, '') AS row_key,
  coalesce(broken_rule, 'duplicate_item') AS reason,
  left(
    CASE
      WHEN broken_rule IN ('no_item_id', 'long_title') THEN title
      WHEN broken_rule = 'no_title' THEN concat('category ', category)
      WHEN broken_rule IS NULL THEN concat('updated_at ', updated_at, ', a newer row exists')
      ELSE concat('title ', title)
    END,
    200
  ) AS detail
FROM ranked_items
WHERE broken_rule IS NOT NULL OR version > 1;

CREATE OR REPLACE TEMPORARY VIEW listed_pictures AS
SELECT item_id, place, file
FROM usable_items
LATERAL VIEW posexplode(images) AS place, file;
