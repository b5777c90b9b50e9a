-- Delivered items → the reason why each row is not used, by the rules of sql/prepare_items.sql, and the usable ones. In DuckDB's dialect.
-- Reads: delivered_items (one row a row; updated_at in microseconds since 1970, attributes_length in characters; price, currency).
-- Gives: judged_items, usable_items (one row an item), item_reasons, departments. Macro `visible`: what can be seen of a text (defined by the caller).

CREATE OR REPLACE TEMP TABLE judged_items AS
WITH tidy AS (
  SELECT
    * EXCLUDE (title, category, brand),
    title AS delivered_title,
    trim(regexp_replace(coalesce(visible(title), ''), '[\s\p{Z}\x1C-\x1F\x{85}]+', ' ', 'g')) AS title,
    trim(regexp_replace(coalesce(visible(category), ''), '[\s\p{Z}\x1C-\x1F\x{85}]+', ' ', 'g')) AS category,
    trim(regexp_replace(coalesce(visible(split_part(category, '>', 1)), ''), '[\s\p{Z}\x1C-\x1F\x{85}]+', ' ', 'g')) AS department,
    trim(regexp_replace(coalesce(visible(brand), ''), '[\s\p{Z}\x1C-\x1F\x{85}]+', ' ', 'g')) AS brand
  FROM delivered_items
)
SELECT
  *,
  CASE
    WHEN coalesce(trim(item_id), '') = '' THEN 'no_item_id'
    WHEN title = '' THEN 'no_title'
    WHEN strlen(item_id) > 256 THEN 'long_item_id'
    WHEN length(title) > 1000 THEN 'long_title'
    WHEN department = '' THEN 'no_category'
    WHEN length(category) > 1000 THEN 'long_category'
    WHEN length(brand) > 1000 THEN 'long_brand'
    WHEN attributes_length > 100000 THEN 'long_attributes'
    WHEN updated_at IS NULL THEN 'no_updated_at'
    WHEN updated_at NOT BETWEEN -62135596800000000 AND 253402300799999999 THEN 'bad_updated_at'
  END AS broken_rule
FROM tidy;

CREATE OR REPLACE TEMP TABLE usable_items AS
SELECT
  item_id,
  any_value(department) AS department,
  arg_max(images, (updated_at, number)) AS images,
  arg_max(title, (updated_at, number)) AS title,
  -- In a struct, as else an older row's value would stand for an empty one.
  arg_max({'price': price, 'currency': upper(trim(currency))}, (updated_at, number)) AS offer,
  max(number) AS number,
  max(updated_at) AS updated_at
FROM judged_items
WHERE broken_rule IS NULL
GROUP BY item_id;

CREATE OR REPLACE TEMP TABLE item_reasons AS
SELECT broken_rule AS reason, count(*) AS rows, arg_min(coalesce(item_id, '?'), number) AS example, min(number) AS first_number
FROM judged_items
WHERE broken_rule IS NOT NULL
GROUP BY broken_rule
UNION ALL
SELECT 'duplicate_item', sum(rows - 1), arg_min(item_id, last_number), min(last_number)
FROM (SELECT item_id, count(*) AS rows, max(number) AS last_number FROM judged_items WHERE broken_rule IS NULL GROUP BY item_id HAVING count(*) > 1)
HAVING count(*) > 0;

CREATE OR REPLACE TEMP TABLE departments AS
SELECT
  department,
  count(*) AS items,
  count_if(len(images) > 0) AS with_pictures
FROM usable_items
GROUP BY department;
