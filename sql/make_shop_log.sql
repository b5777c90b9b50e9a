-- Days of a click log of any size over the catalogue of make_shop_items.sql, by the model of smar_model/shop/shoppers.py:
-- visits, an item in mind, a query of some of its true attributes, a list by one of four rankers with neighbours swapped in
-- half of the lists, places looked at from the top, clicks by how well the item fits. What is simpler than there, so that each
-- request is an expression of its own number and no join nor sort is needed:
--   * `relevant` lists are a run of items that have the named type, look and pattern, in any order of the numbers;
--   * `title` lists are a run of items of the wanted type; `popularity` has the best sellers of the whole shop;
--   * a query is misspelt by one letter left out, and its words are in the usual order or the reverse.
-- Every choice is a hash of day, number and seed: a day is the same in a shop of any number of days, on any cluster.
-- Reads: request_numbers (id, from 0), slots, looks, patterns (jobs/make_shop.py).
-- Parameters: seed, items, slots, looks, patterns, code_letters, first_day, requests_per_day, visits (array: number of the
-- visit within a block, of each of the block's requests), places (array: the request's place in its visit), hours (array),
-- slot_types, look_colours, pattern_names (arrays: equal number, equal value), examination (array of millionths), wanted,
-- matches, other (each an array: chance of a click in millionths, of the cart after it in hundredths), prime.
-- Gives: click_log (with `dt`), truth_requests (with `dt`).

CREATE OR REPLACE TEMPORARY VIEW numbered_requests AS
SELECT
  date_add(:first_day, CAST(id DIV :requests_per_day AS INT)) AS dt,
  id % :requests_per_day AS number,
  :visits[CAST(id % :requests_per_day % size(:visits) AS INT)]
    + (id % :requests_per_day DIV size(:visits)) * (1 + array_max(:visits)) AS visit,
  :places[CAST(id % :requests_per_day % size(:visits) AS INT)] AS place
FROM request_numbers;

CREATE OR REPLACE TEMPORARY VIEW lucky_requests AS
SELECT
  *,
  xxhash64(unix_date(dt), number, :seed) AS luck,
  xxhash64(unix_date(dt), visit, :seed, 'visit') AS visit_luck
FROM numbered_requests;

-- The wish of four in ten later requests of a visit is that of the request before. An item's chance falls with its rank as
-- (rank + 10)^-0.6, whose sum is inverted here; ranks are dealt to the items by a multiplication that hits each once.
CREATE OR REPLACE TEMPORARY VIEW wishes AS
SELECT
  *,
  xxhash64(
    visit_luck,
    array_max(filter(sequence(0, place), earlier -> earlier = 0 OR pmod(xxhash64(visit_luck, earlier), 100) >= 40))
  ) AS wish_luck
FROM lucky_requests;

CREATE OR REPLACE TEMPORARY VIEW wanted_items AS
SELECT
  *,
  pmod(
    least(
      CAST(
        power(
          pmod(wish_luck, 1000000007) / 1000000007 * (power(:items + 10, 0.4) - power(10, 0.4)) + power(10, 0.4), 2.5
        ) - 10 AS BIGINT
      ),
      :items - 1
    ) * :prime + :seed,
    :items
  ) AS wanted
FROM wishes;

CREATE OR REPLACE TEMPORARY VIEW wishes_with_truth AS
SELECT /*+ BROADCAST(s, l, p) */
  w.dt,
  w.number,
  w.visit,
  w.visit_luck,
  w.place,
  w.luck,
  w.wanted,
  s.visual,
  s.type,
  s.type_words,
  s.fact,
  if(s.visual, l.colour, s.facts[pmod(l.look, size(s.facts))]) AS fact_value,
  if(s.visual, l.words, array(s.facts[pmod(l.look, size(s.facts))])) AS fact_words,
  p.pattern,
  p.words AS pattern_words,
  s.genders[pmod(xxhash64(w.wanted, :seed, 'gender'), size(s.genders))] AS gender,
  lower(s.brands[pmod(xxhash64(w.wanted, :seed, 'brand'), size(s.brands))]) AS brand,
  lower(
    concat(
      substr(:code_letters, 1 + CAST(pmod(xxhash64(w.wanted, :seed, 'letter'), length(:code_letters)) AS INT), 1),
      100 + pmod(xxhash64(w.wanted, :seed, 'code'), 9900)
    )
  ) AS model,
  size(s.facts) AS facts,
  size(s.genders) AS genders,
  size(s.brands) AS brands,
  pmod(xxhash64(w.luck, 'fact'), 100) < 65 AS names_fact,
  s.visual AND p.pattern <> 'plain' AND pmod(xxhash64(w.luck, 'pattern'), 100) < 30 AS names_pattern,
  s.visual AND pmod(xxhash64(w.luck, 'gender'), 100) < 25 AS names_gender,
  pmod(xxhash64(w.luck, 'brand'), 100) < if(s.visual, 12, 35) AS names_brand,
  pmod(xxhash64(w.luck, 'model'), 100) < 5 AS names_model
FROM wanted_items AS w
INNER JOIN slots AS s ON s.slot = pmod(w.wanted, :slots)
INNER JOIN looks AS l ON l.look = pmod(w.wanted DIV :slots, :looks)
INNER JOIN patterns AS p ON p.number = pmod(w.wanted DIV (:slots * :looks), :patterns);

CREATE OR REPLACE TEMPORARY VIEW worded_requests AS
SELECT
  *,
  array(
    if(names_brand, brand, NULL),
    if(names_gender, gender, NULL),
    if(names_pattern, pattern_words[if(form % 10 < 6, 0, form DIV 10 % size(pattern_words))], NULL),
    if(names_fact, fact_words[if(form DIV 100 % 10 < 6, 0, form DIV 1000 % size(fact_words))], NULL),
    type_words[if(form DIV 10000 % 10 < 6, 0, form DIV 100000 % size(type_words))],
    if(names_model, model, NULL)
  ) AS words,
  -- The list is drawn from the items `rest` + `stride` × n.
  CASE
    WHEN policy = 'relevant' AND names_fact AND names_pattern AND :items >= 24 * :slots * :looks * :patterns
      THEN :slots * :looks * :patterns
    WHEN policy = 'relevant' AND names_fact AND :items >= 24 * :slots * :looks THEN :slots * :looks
    WHEN policy IN ('relevant', 'title') AND :items >= 24 * :slots THEN :slots
    ELSE 1
  END AS stride
FROM (
  SELECT
    *,
    pmod(xxhash64(luck, 'form'), 1000000000) AS form,
    CASE
      WHEN pmod(xxhash64(luck, 'policy'), 100) < 35 THEN 'title'
      WHEN pmod(xxhash64(luck, 'policy'), 100) < 45 THEN 'popularity'
      WHEN pmod(xxhash64(luck, 'policy'), 100) < 90 THEN 'relevant'
      ELSE 'random'
    END AS policy
  FROM wishes_with_truth
);

CREATE OR REPLACE TEMPORARY VIEW requests AS
SELECT
  *,
  concat('r', date_format(dt, 'yyyyMMdd'), '-', lpad(number, 9, '0')) AS request_id,
  CASE
    WHEN pmod(xxhash64(luck, 'slip'), 100) < 5 AND length(text) > 3
      THEN concat(left(text, 1 + slip), substr(text, 3 + slip))
    ELSE text
  END AS query,
  CASE policy
    WHEN 'popularity' THEN least(200, :items)
    ELSE (:items - 1 - wanted % stride) DIV stride + 1
  END AS candidates
FROM (
  SELECT
    *,
    array_join(if(pmod(xxhash64(luck, 'order'), 100) < 60, words, reverse(words)), ' ') AS text,
    CAST(pmod(xxhash64(luck, 'slip place'), greatest(length(array_join(words, ' ')) - 3, 1)) AS INT) AS slip
  FROM worded_requests
);

-- `start` is the candidate at the top. The wanted item is among the dozen in 8 of 10 `relevant` lists and 6 of 10 `title`
-- lists, at any place, and outside it in the others.
CREATE OR REPLACE TEMPORARY VIEW listed_requests AS
SELECT
  *,
  CASE
    WHEN policy IN ('popularity', 'random') THEN pmod(xxhash64(luck, 'start'), candidates)
    WHEN pmod(xxhash64(luck, 'present'), 100) < if(policy = 'relevant', 80, 60)
      THEN wanted DIV stride - pmod(xxhash64(luck, 'start'), 12)
    ELSE wanted DIV stride + 1 + pmod(xxhash64(luck, 'start'), greatest(candidates - 12, 1))
  END AS start,
  unix_micros(CAST(dt AS TIMESTAMP))
    + (
      least(
        :hours[CAST(pmod(xxhash64(visit_luck, 'hour'), size(:hours)) AS INT)] * 3600000L
          + pmod(xxhash64(visit_luck, 'minute'), 3600000),
        84600000L
      ) + place * 120000L + pmod(xxhash64(luck, 'second'), 100000)
    ) * 1000 AS seen_at,
  pmod(xxhash64(luck, 'swap'), 4) AS swapping
FROM requests;

-- Half of the lists swap neighbours, beginning with the first or the second place, each pair with one chance in two.
CREATE OR REPLACE TEMPORARY VIEW shown AS
SELECT
  r.*,
  rank,
  CASE
    WHEN swapping > 1 OR rank < swapping OR pmod(xxhash64(luck, (rank - swapping) DIV 2), 2) = 1 THEN rank
    WHEN (rank - swapping) % 2 = 0 THEN least(rank + 1, 11)
    ELSE rank - 1
  END AS shown_at,
  CASE
    WHEN policy IN ('popularity', 'random') THEN pmod(pmod(start + rank, candidates) * :prime + :seed, :items)
    ELSE wanted % stride + stride * pmod(start + rank, candidates)
  END AS item
FROM listed_requests AS r
LATERAL VIEW explode(sequence(0, 11)) AS rank;

CREATE OR REPLACE TEMPORARY VIEW fitting AS
SELECT
  dt,
  request_id,
  visit,
  visit_luck,
  query,
  item,
  shown_at,
  seen_at,
  xxhash64(luck, item) AS luck,
  CASE
    WHEN item = wanted THEN :wanted
    WHEN
      :slot_types[CAST(item % :slots AS INT)] = :slot_types[CAST(wanted % :slots AS INT)]
      AND (
        NOT names_fact
        OR if(
          visual,
          :look_colours[CAST(item DIV :slots % :looks AS INT)] = :look_colours[CAST(wanted DIV :slots % :looks AS INT)],
          item DIV :slots % :looks % facts = wanted DIV :slots % :looks % facts
        )
      )
      AND (
        NOT names_pattern
        OR :pattern_names[CAST(item DIV (:slots * :looks) % :patterns AS INT)]
          = :pattern_names[CAST(wanted DIV (:slots * :looks) % :patterns AS INT)]
      )
      AND (
        NOT names_gender
        OR pmod(xxhash64(item, :seed, 'gender'), genders) = pmod(xxhash64(wanted, :seed, 'gender'), genders)
      )
      AND (
        NOT names_brand OR pmod(xxhash64(item, :seed, 'brand'), brands) = pmod(xxhash64(wanted, :seed, 'brand'), brands)
      )
      AND NOT names_model THEN :matches
    ELSE :other
  END AS fit
FROM shown;

CREATE OR REPLACE TEMPORARY VIEW behaviour AS
SELECT
  *,
  pmod(luck, 1000000000000) < CAST(:examination[shown_at] AS BIGINT) * fit[0] AS clicked,
  pmod(xxhash64(luck, 'cart'), 100) < fit[1] AS carted,
  pmod(xxhash64(luck, 'order'), 2) = 0 AS ordered,
  seen_at + (2000 + 3000 * shown_at + pmod(xxhash64(luck, 'click at'), 5000)) * 1000 AS clicked_at,
  (10000 + pmod(xxhash64(luck, 'cart at'), 60000)) * 1000 AS cart_after,
  (30000 + pmod(xxhash64(luck, 'order at'), 300000)) * 1000 AS order_after
FROM fitting;

-- Shoppers' visits are skewed, (rank + a hundredth of the shoppers)^-0.6: the busiest come six times as often as the mean,
-- which no cleaning rule takes for a program, however large the shop.
CREATE OR REPLACE TEMPORARY VIEW click_log AS
SELECT
  timestamp_micros(done.at) AS event_time,
  done.event,
  request_id,
  concat('s', date_format(dt, 'yyyyMMdd'), '-', lpad(visit, 9, '0')) AS session_id,
  concat(
    'u',
    lpad(
      CAST(
        power(
          pmod(xxhash64(visit_luck, 'user'), 1000000007) / 1000000007
            * (power(1.01 * shoppers, 0.4) - power(0.01 * shoppers, 0.4)) + power(0.01 * shoppers, 0.4),
          2.5
        ) - 0.01 * shoppers AS BIGINT
      ),
      9,
      '0'
    )
  ) AS user_id,
  query,
  concat('item-', lpad(item, 9, '0')) AS item_id,
  CAST(shown_at + 1 AS INT) AS position,
  dt
FROM (SELECT *, CAST(greatest(:requests_per_day DIV 2, 20) AS DOUBLE) AS shoppers FROM behaviour)
LATERAL VIEW inline(
  filter(
    array(
      struct('impression' AS event, seen_at AS at),
      if(clicked, struct('click' AS event, clicked_at AS at), NULL),
      if(clicked AND carted, struct('cart' AS event, clicked_at + cart_after AS at), NULL),
      if(clicked AND carted AND ordered, struct('order' AS event, clicked_at + cart_after + order_after AS at), NULL)
    ),
    happened -> happened IS NOT NULL
  )
) done AS event, at;

CREATE OR REPLACE TEMPORARY VIEW truth_requests AS
SELECT
  request_id,
  query,
  concat('item-', lpad(wanted, 9, '0')) AS item_id,
  map_filter(
    map(
      'type', type, 'brand', if(names_brand, brand, NULL), 'gender', if(names_gender, gender, NULL), 'pattern',
      if(names_pattern, pattern, NULL), fact, if(names_fact, fact_value, NULL), 'model', if(names_model, model, NULL)
    ),
    (name, value) -> value IS NOT NULL
  ) AS named,
  policy,
  dt
FROM requests;
