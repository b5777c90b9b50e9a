-- A catalogue of any size. An item is its number: the last digits in a mixed radix are its place on the shelves (`slots`),
-- its look (`looks`) and its pattern (`patterns`); all else is a hash of number and seed. So an item's truth can be told
-- from its number alone, without a join (make_shop_log.sql does so), and a larger shop begins with the same items.
-- Reads: numbers (id, from 0), slots, looks, patterns (jobs/make_shop.py).
-- Parameters: seed, slots, looks, patterns (how many there are), code_letters, puffery (array), materials (array), names
-- (array), pictures (whether items have one), updated_at.
-- Gives: made_items, items, truth_items.

CREATE OR REPLACE TEMPORARY VIEW numbered_items AS
SELECT
  id AS number,
  concat('item-', lpad(id, 9, '0')) AS item_id,
  xxhash64(id, :seed) AS luck,
  CAST(pmod(id, :slots) AS INT) AS slot,
  CAST(pmod(id DIV :slots, :looks) AS INT) AS look,
  CAST(pmod(id DIV (:slots * :looks), :patterns) AS INT) AS pattern
FROM numbers;

-- The hashes of gender, brand and model are those of make_shop_log.sql.
CREATE OR REPLACE TEMPORARY VIEW true_items AS
SELECT /*+ BROADCAST(s, l, p) */
  n.number,
  n.item_id,
  n.luck,
  s.category,
  s.visual,
  s.type,
  s.type_words,
  s.fact,
  if(s.visual, l.colour, s.facts[pmod(n.look, size(s.facts))]) AS fact_value,
  if(s.visual, l.words, array(s.facts[pmod(n.look, size(s.facts))])) AS fact_words,
  if(s.visual, p.pattern, NULL) AS pattern,
  p.words AS pattern_words,
  s.genders[pmod(xxhash64(n.number, :seed, 'gender'), size(s.genders))] AS gender,
  s.brands[pmod(xxhash64(n.number, :seed, 'brand'), size(s.brands))] AS brand,
  concat(
    substr(:code_letters, 1 + CAST(pmod(xxhash64(n.number, :seed, 'letter'), length(:code_letters)) AS INT), 1),
    100 + pmod(xxhash64(n.number, :seed, 'code'), 9900)
  ) AS model
FROM numbered_items AS n
INNER JOIN slots AS s ON s.slot = n.slot
INNER JOIN looks AS l ON l.look = n.look
INNER JOIN patterns AS p ON p.number = n.pattern;

-- Sellers name some of it, in words of their own, with puffery. Shares as in the sample shop (smar_model/shop/sample_shop.py).
CREATE OR REPLACE TEMPORARY VIEW titled_items AS
SELECT
  *,
  array_join(
    array(
      if(pmod(xxhash64(luck, 0), 100) < 20, puffery, NULL),
      if(pmod(xxhash64(luck, 1), 100) < 70, brand, NULL),
      if(visual, if(pmod(xxhash64(luck, 2), 100) < 50, gender, NULL), name),
      if(visual AND pattern <> 'plain' AND pmod(xxhash64(luck, 3), 100) < 35, pattern_words[0], NULL),
      if(
        pmod(xxhash64(luck, 4), 100) < 75,
        fact_words[pmod(xxhash64(luck, 5), size(fact_words))],
        NULL
      ),
      if(pmod(xxhash64(luck, 6), 100) < 90, type_words[pmod(xxhash64(luck, 7), size(type_words))], NULL),
      if(pmod(xxhash64(luck, 8), 100) BETWEEN 20 AND 39, puffery, NULL),
      if(pmod(xxhash64(luck, 8), 100) < 25, model, NULL)
    ),
    ' '
  ) AS written
FROM (
  SELECT
    *,
    element_at(:puffery, 1 + CAST(pmod(xxhash64(luck, 'puffery'), size(:puffery)) AS INT)) AS puffery,
    element_at(:names, 1 + CAST(pmod(xxhash64(luck, 'name'), size(:names)) AS INT)) AS name
  FROM true_items
);

CREATE OR REPLACE TEMPORARY VIEW made_items AS
SELECT
  *,
  -- At most a thousand pictures a folder.
  if(:pictures, array(concat(lpad(number DIV 1000, 6, '0'), '/', item_id, '.jpg')), CAST(array() AS ARRAY<STRING>)) AS images
FROM titled_items;

CREATE OR REPLACE TEMPORARY VIEW items AS
SELECT
  item_id,
  if(written = '', 'Item', concat(upper(left(written, 1)), substr(written, 2))) AS title,
  category,
  if(pmod(xxhash64(luck, 10), 100) < 90, brand, NULL) AS brand,
  map_filter(
    map(
      'material',
      if(
        visual AND pmod(xxhash64(luck, 11), 100) < 50,
        element_at(:materials, 1 + CAST(pmod(xxhash64(luck, 'material'), size(:materials)) AS INT)),
        NULL
      ),
      'gender', if(visual AND pmod(xxhash64(luck, 12), 100) < 60, gender, NULL),
      fact, if(pmod(xxhash64(luck, 13), 100) < 40, fact_value, NULL),
      'pattern', if(pmod(xxhash64(luck, 14), 100) < 15, pattern, NULL)
    ),
    (name, value) -> value IS NOT NULL
  ) AS attributes,
  images,
  :updated_at AS updated_at
FROM made_items;

CREATE OR REPLACE TEMPORARY VIEW truth_items AS
SELECT
  item_id,
  map_filter(
    map(
      'type', type, 'brand', lower(brand), 'model', lower(model), fact, fact_value, 'pattern', pattern,
      'gender', if(visual, gender, NULL)
    ),
    (name, value) -> value IS NOT NULL
  ) AS attributes
FROM made_items;
