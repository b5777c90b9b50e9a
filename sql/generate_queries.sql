-- What sellers wrote → synthetic queries (Qiu et al. 2022, arXiv 2208.06150: a random part of an item's text is a query
-- for it). An item's queries follow from its row and the seed alone, and are told apart inside arrays of its own:
-- nothing but the catalogue is shuffled, so that time grows with the queries and memory does not.
-- Reads: catalogue (prepare-items).
-- Parameters: cutoff (items changed at or after it are left out), seed, maximum_words, partitions, and how many texts to
-- draw for an item by method (0: none): substring, brand_type, drop, swap, characters, misspelling, combination.
-- Gives: synthetic_queries.

-- Letters of scripts that are written without spaces between words, each with the marks that belong to it.
DECLARE OR REPLACE VARIABLE spaceless STRING
DEFAULT r'[\p{IsHan}\p{IsHiragana}\p{IsKatakana}ー\p{IsThai}\p{IsLao}\p{IsKhmer}\p{IsMyanmar}]\p{M}*';

-- The first pattern is cheap and true of few texts: to tell a letter's script takes a search in a table.
CREATE OR REPLACE TEMPORARY FUNCTION has_spaceless(text STRING)
RETURNS BOOLEAN
RETURN text RLIKE r'[^\x{0}-\x{DFF}]' AND text RLIKE spaceless;

-- Runs of such letters are cut into pieces about as long as a word; words are what spaces part then.
CREATE OR REPLACE TEMPORARY FUNCTION part_words(text STRING)
RETURNS ARRAY<STRING>
RETURN filter(
  split(
    if(
      has_spaceless(text),
      regexp_replace(
        text,
        r'([\p{IsKatakana}ー]+|\p{IsHiragana}+|\p{IsHan}{1,2}|([\p{IsThai}\p{IsLao}\p{IsKhmer}\p{IsMyanmar}]\p{M}*){1,4})',
        ' $1 '
      ),
      text
    ),
    ' +'
  ),
  -- A lone dash is no word.
  word -> word RLIKE r'[\p{L}\p{N}]'
);

-- Such pieces as people write them: without spaces.
CREATE OR REPLACE TEMPORARY FUNCTION join_pieces(texts ARRAY<STRING>, is_spaceless BOOLEAN)
RETURNS ARRAY<STRING>
RETURN if(
  is_spaceless,
  transform(texts, text -> regexp_replace(text, concat('(', spaceless, ') (?=', spaceless, ')'), '$1')),
  texts
);

-- As many spans of words as there are chances, each of at most `longest`: all lengths alike, then all places alike.
CREATE OR REPLACE TEMPORARY FUNCTION draw_spans(lucks ARRAY<BIGINT>, words ARRAY<STRING>, longest INT)
RETURNS ARRAY<ARRAY<STRING>>
RETURN transform(
  transform(
    lucks,
    luck -> struct(
      luck, CAST(1 + pmod(shiftright(luck, 32), greatest(least(longest, size(words)), 1)) AS INT) AS length
    )
  ),
  span -> slice(
    words, CAST(1 + pmod(span.luck, greatest(size(words) - span.length + 1, 1)) AS INT), span.length
  )
);

-- One slip of the keyboard inside a word of four letters or more: a letter is left out, changes places with the next,
-- is doubled, or becomes one of its neighbours on the keyboard. Where the random place is not inside such a word the
-- result is empty.
CREATE OR REPLACE TEMPORARY FUNCTION misspell(texts ARRAY<STRING>, seed BIGINT)
RETURNS ARRAY<STRING>
RETURN transform(
  transform(
    texts,
    text -> struct(
      text,
      pmod(xxhash64(text, seed), 5) AS slip,
      CAST(2 + pmod(xxhash64(seed, text), greatest(length(text) - 3, 1)) AS INT) AS place
    )
  ),
  typed -> if(
    substr(typed.text, typed.place - 1, 4) RLIKE r'^\p{L}{4}$',
    overlay(
      typed.text
      PLACING CASE typed.slip
        WHEN 0 THEN ''
        WHEN 1 THEN reverse(substr(typed.text, typed.place, 2))
        WHEN 2 THEN repeat(substr(typed.text, typed.place, 1), 2)
        WHEN 3 THEN translate(
          substr(typed.text, typed.place, 1), 'qwertyuiopasdfghjklzxcvbnm', 'wertyuioposdfghjklkxcvbnmn'
        )
        ELSE translate(
          substr(typed.text, typed.place, 1), 'qwertyuiopasdfghjklzxcvbnm', 'wqwertyuiosasdfghjkxzxcvbn'
        )
      END
      FROM typed.place
      FOR if(typed.slip = 1, 2, 1)
    ),
    ''
  )
);

-- Repartitioned, as a catalogue of one file would be worked on by one core.
CREATE OR REPLACE TEMPORARY VIEW known_items AS
SELECT /*+ REPARTITION(:partitions, item_id) */ item_id, title, brand, category, attributes
FROM catalogue
WHERE updated_at < :cutoff;

-- Values are sorted, so that the order of a map's entries does not matter.
CREATE OR REPLACE TEMPORARY VIEW written_texts AS
SELECT
  item_id,
  normalise_item_text(title) AS title,
  normalise_item_text(brand) AS brand,
  normalise_item_text(element_at(split(category, '>'), -1)) AS type,
  normalise_item_text(array_join(sort_array(map_values(attributes)), ' | ')) AS details
FROM known_items;

CREATE OR REPLACE TEMPORARY VIEW written_words AS
SELECT
  item_id,
  brand,
  type,
  split(details, ' [|] ') AS details,
  part_words(title) AS title_words,
  array_distinct(part_words(concat_ws(' ', title, brand, type, details))) AS words,
  has_spaceless(concat_ws(' ', title, brand, type, details)) AS is_spaceless,
  if(
    has_spaceless(title),
    regexp_extract_all(
      title,
      concat(spaceless, r'|[^ \p{IsHan}\p{IsHiragana}\p{IsKatakana}ー\p{IsThai}\p{IsLao}\p{IsKhmer}\p{IsMyanmar}]+| '),
      0
    ),
    array()
  ) AS title_letters
FROM written_texts;

-- All that is left to chance.
CREATE OR REPLACE TEMPORARY VIEW item_luck AS
SELECT *, xxhash64(item_id, :seed) AS luck
FROM written_words;

CREATE OR REPLACE TEMPORARY VIEW chances AS
SELECT
  *,
  transform(
    sequence(1, greatest(:substring, :drop, :swap, :characters, :misspelling, :combination, 1)),
    draw -> xxhash64(luck, draw)
  ) AS lucks
FROM item_luck;

-- All words in random orders, as many as combinations need, each with its chance.
CREATE OR REPLACE TEMPORARY VIEW shuffled_words AS
SELECT
  *,
  if(
    size(words) = 0,
    array(),
    transform(
      slice(lucks, 1, CAST(ceil(greatest(:combination, :misspelling) / size(words)) AS INT)),
      luck -> sort_array(transform(words, word -> struct(xxhash64(word, luck) AS luck, word)))
    )
  ) AS shuffled
FROM chances;

-- A combination is a stretch of such an order, which goes on from its beginning: where it begins, how long it is.
CREATE OR REPLACE TEMPORARY VIEW stretches AS
SELECT
  *,
  transform(
    shuffled,
    places -> struct(
      concat(places.word, slice(places.word, 1, :maximum_words)) AS words,
      transform(
        places.luck,
        luck -> CAST(
          least(size(places), least(:maximum_words, 2) + pmod(luck, greatest(:maximum_words - 1, 1))) AS INT
        )
      ) AS lengths
    )
  ) AS orders
FROM shuffled_words;

CREATE OR REPLACE TEMPORARY VIEW drawn_texts AS
SELECT
  is_spaceless,
  item_id,
  transform(
    draw_spans(slice(lucks, 1, greatest(:substring, :misspelling)), title_words, :maximum_words),
    span -> array_join(span, ' ')
  ) AS substrings,
  slice(
    filter(
      flatten(
        transform(
          array_union(array(''), details),
          detail -> array(
            concat_ws(' ', nullif(detail, ''), type),
            concat_ws(' ', nullif(brand, ''), nullif(detail, ''), type)
          )
        )
      ),
      text -> regexp_count(text, ' ') < :maximum_words
    ),
    1,
    :brand_type
  ) AS brand_types,
  -- Of a random stretch of the title each word stays with an even chance.
  transform(
    slice(lucks, 1, :drop),
    luck -> array_join(
      slice(
        filter(
          slice(
            title_words,
            CAST(1 + pmod(shiftright(luck, 40), greatest(size(title_words) - 2 * :maximum_words + 1, 1)) AS INT),
            2 * :maximum_words
          ),
          (word, place) -> getbit(luck, place) = 1
        ),
        1,
        :maximum_words
      ),
      ' '
    )
  ) AS drops,
  -- Two neighbours change places: those at the middle of the span.
  transform(
    filter(draw_spans(slice(lucks, 1, 2 * :swap), title_words, :maximum_words), span -> size(span) > 1),
    span -> array_join(
      concat(
        slice(span, 1, CAST(size(span) / 2 AS INT) - 1),
        array(span[CAST(size(span) / 2 AS INT)], span[CAST(size(span) / 2 AS INT) - 1]),
        slice(span, CAST(size(span) / 2 AS INT) + 2, :maximum_words)
      ),
      ' '
    )
  ) AS swaps,
  filter(
    transform(
      draw_spans(slice(lucks, 1, :characters), title_letters, 2 * :maximum_words),
      span -> trim(array_join(span, ''))
    ),
    text -> length(text) > 1 AND text RLIKE spaceless
  ) AS characters,
  -- Two words or more in any order.
  flatten(
    transform(
      orders,
      places -> transform(
        places.lengths, (length, start) -> array_join(slice(places.words, 1 + start, length), ' ')
      )
    )
  ) AS combinations
FROM stretches;

CREATE OR REPLACE TEMPORARY VIEW joined_texts AS
SELECT
  item_id,
  join_pieces(substrings, is_spaceless) AS substrings,
  brand_types,
  join_pieces(drops, is_spaceless) AS drops,
  join_pieces(swaps, is_spaceless) AS swaps,
  characters,
  join_pieces(combinations, is_spaceless) AS combinations
FROM drawn_texts;

CREATE OR REPLACE TEMPORARY VIEW misspelt_texts AS
SELECT
  *,
  misspell(
    concat(slice(substrings, 1, CAST(:misspelling / 2 AS INT)), slice(combinations, 1, :misspelling)), :seed
  ) AS misspelt
FROM joined_texts;

CREATE OR REPLACE TEMPORARY VIEW drawn_queries AS
SELECT
  item_id,
  slice(substrings, 1, :substring) AS substrings,
  brand_types,
  drops,
  slice(swaps, 1, :swap) AS swaps,
  characters,
  -- Some with a second slip.
  concat(misspelt, misspell(slice(misspelt, 1, CAST(:misspelling / 4 AS INT)), :seed + 1)) AS misspellings,
  slice(combinations, 1, :combination) AS combinations
FROM misspelt_texts;

-- Distinct within an item: a text that several methods gave counts for the first of them. Of equal keys a map keeps the
-- last, hence the reverse order.
SET spark.sql.mapKeyDedupPolicy = LAST_WIN;

CREATE OR REPLACE TEMPORARY VIEW synthetic_queries AS
SELECT item_id, query, method
FROM drawn_queries
LATERAL VIEW explode(
  map_from_arrays(
    concat(misspellings, combinations, characters, swaps, drops, brand_types, substrings),
    concat(
      array_repeat('misspelling', size(misspellings)),
      array_repeat('combination', size(combinations)),
      array_repeat('characters', size(characters)),
      array_repeat('swap', size(swaps)),
      array_repeat('drop', size(drops)),
      array_repeat('brand_type', size(brand_types)),
      array_repeat('substring', size(substrings))
    )
  )
) AS query, method
-- Bytes are counted at once, letters are not.
WHERE query <> '' AND (octet_length(query) <= 500 OR length(query) <= 500);
