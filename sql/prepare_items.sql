-- Delivered items → usable items, each once, and the rows that are not used, each with one reason.
-- Reads: items (the delivery), earlier_catalogue (table `catalogue` of a run of an earlier day; may be empty).
-- Gives: usable_items (one row an item, `images` as listed), item_quarantine, listed_pictures (place: 0 is the main one), offers,
-- bad_offers (prices and currencies of usable items that are left out, by reason).

CREATE OR REPLACE TEMPORARY VIEW tidy_items AS
SELECT
  item_id,
  collapse_space(visible_text(title)) AS title,
  collapse_space(visible_text(category)) AS category,
  collapse_space(visible_text(split(category, '>')[0])) AS department,
  collapse_space(visible_text(brand)) AS brand,
  coalesce(map_filter(visible_values(attributes), (name, value) -> trim(value) <> ''), map()) AS attributes,
  coalesce(images, array()) AS images,
  updated_at,
  -- An item stays whatever is wrong with its price. What no number can hold is read as the last one that it can (`decimal_number`).
  CASE WHEN price BETWEEN 0 AND 99999999999999 THEN price END AS price,
  CASE WHEN upper(trim(currency)) RLIKE '^[A-Z]{3}$' THEN upper(trim(currency)) END AS currency,
  available,
  price NOT BETWEEN 0 AND 99999999999999 AS is_bad_price,
  trim(currency) <> '' AND NOT upper(trim(currency)) RLIKE '^[A-Z]{3}$' AS is_bad_currency,
  price AS delivered_price,
  left(currency, 40) AS delivered_currency
FROM items;

-- The first rule that a row breaks is its reason.
CREATE OR REPLACE TEMPORARY VIEW judged_items AS
SELECT
  *,
  CASE
    WHEN coalesce(trim(item_id), '') = '' THEN 'no_item_id'
    WHEN title = '' THEN 'no_title'
    WHEN octet_length(item_id) > 256 THEN 'long_item_id'
    WHEN length(title) > 1000 THEN 'long_title'
    WHEN coalesce(department, '') = '' THEN 'no_category'
    -- A model reads some dozens of words. Queries are drawn from every text, and combined: their number has no bound else.
    WHEN length(category) > 1000 THEN 'long_category'
    WHEN length(brand) > 1000 THEN 'long_brand'
    WHEN length(array_join(map_keys(attributes), '')) + length(array_join(map_values(attributes), '')) > 100000
      THEN 'long_attributes'
    WHEN updated_at IS NULL THEN 'no_updated_at'
    -- Sentinels for "never" and "always" pass; what no calendar has does not.
    WHEN updated_at NOT BETWEEN TIMESTAMP '0001-01-01' AND TIMESTAMP '9999-12-31 23:59:59.999999' THEN 'bad_updated_at'
  END AS broken_rule
FROM tidy_items;

-- Of an item's sound rows the newest counts; rows of the same time are ordered by content, so that a repeated run
-- takes the same one.
CREATE OR REPLACE TEMPORARY VIEW ranked_items AS
SELECT
  *,
  row_number() OVER (
    PARTITION BY broken_rule, item_id
    ORDER BY updated_at DESC, to_json(struct(title, category, brand, attributes, images, price, currency, available))
    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
  ) AS version
FROM judged_items;

-- A nightly export may touch every row: what counts is since when the text has stood as it is.
CREATE OR REPLACE TEMPORARY VIEW usable_items AS
SELECT
  i.item_id,
  i.title,
  i.category,
  i.department,
  i.brand,
  i.attributes,
  i.images,
  least(i.updated_at, e.updated_at) AS updated_at
FROM ranked_items AS i
LEFT JOIN earlier_catalogue AS e
  ON e.item_id = i.item_id
    AND e.title = i.title
    AND e.category = i.category
    AND e.brand = i.brand
    AND sort_array(map_entries(e.attributes)) = sort_array(map_entries(i.attributes))
WHERE i.broken_rule IS NULL AND i.version = 1;

CREATE OR REPLACE TEMPORARY VIEW item_quarantine AS
SELECT
  'items' AS source,
  left(coalesce(item_id, ''), 1000) AS row_key,
  coalesce(broken_rule, 'duplicate_item') AS reason,
  left(
    CASE
      WHEN broken_rule IN ('no_item_id', 'long_title') THEN title
      WHEN broken_rule = 'long_category' THEN category
      WHEN broken_rule = 'long_brand' THEN brand
      WHEN broken_rule = 'bad_updated_at' THEN concat('updated_at ', updated_at)
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

CREATE OR REPLACE TEMPORARY VIEW offers AS
SELECT item_id, price, currency, available
FROM ranked_items
WHERE broken_rule IS NULL AND version = 1 AND coalesce(CAST(price AS STRING), currency, CAST(available AS STRING)) IS NOT NULL;

CREATE OR REPLACE TEMPORARY VIEW bad_offers AS
SELECT reason, count(*) AS rows, min_by(example, item_id) AS example
FROM (
  SELECT item_id, 'bad_price' AS reason, concat(item_id, ': price ', delivered_price) AS example
  FROM ranked_items
  WHERE broken_rule IS NULL AND version = 1 AND is_bad_price
  UNION ALL
  SELECT item_id, 'bad_currency' AS reason, concat(item_id, ': currency ', delivered_currency) AS example
  FROM ranked_items
  WHERE broken_rule IS NULL AND version = 1 AND is_bad_currency
)
GROUP BY reason;
