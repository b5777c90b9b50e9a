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

-- Runs of such letters are cut into pieces about as long as a word; words are what spaces part then.
CREATE OR REPLACE TEMPORARY FUNCTION part_words(text STRING)
RETURNS ARRAY<STRING>
RETURN filter(
  split(
    if(
      text RLIKE spaceless,
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

-- Every span of at most `longest` out of `count`, in a random order.
CREATE OR REPLACE TEMPORARY FUNCTION shuffle_spans(item_id STRING, seed BIGINT, count INT, longest INT)
RETURNS ARRAY<STRUCT<luck: BIGINT, start: INT, length: INT>>
RETURN sort_array(
  filter(
    transform(
      sequence(0, count * longest - 1),
      n -> struct(
        xxhash64(item_id, n, seed) AS luck,
        CAST(1 + n DIV longest AS INT) AS start,
        1 + n % longest AS length
      )
    ),
    span -> span.start + span.length <= count + 1
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
  normalise_query(title) AS title,
  normalise_query(brand) AS brand,
  normalise_query(element_at(split(category, '>'), -1)) AS type,
  normalise_query(array_join(sort_array(map_values(attributes)), ' | ')) AS details
FROM known_items;

CREATE OR REPLACE TEMPORARY VIEW written_words AS
SELECT
  item_id,
  brand,
  type,
  split(details, ' [|] ') AS details,
  part_words(title) AS title_words,
  array_distinct(part_words(concat_ws(' ', title, brand, type, details))) AS words,
  concat_ws(' ', title, brand, type, details) RLIKE spaceless AS is_spaceless,
  if(
    title RLIKE spaceless,
    regexp_extract_all(
      title,
      concat(spaceless, r'|[^ \p{IsHan}\p{IsHiragana}\p{IsKatakana}ー\p{IsThai}\p{IsLao}\p{IsKhmer}\p{IsMyanmar}]+| '),
      0
    ),
    array()
  ) AS title_letters
FROM written_texts;

-- All that is left to chance.
CREATE OR REPLACE TEMPORARY VIEW chances AS
SELECT
  *,
  CAST(greatest(size(words), 1) AS BIGINT) AS word_count,
  shuffle_spans(item_id, :seed, size(title_words), :maximum_words) AS spans,
  shuffle_spans(item_id, :seed, size(title_letters), 2 * :maximum_words) AS letter_spans,
  transform(
    sequence(1, greatest(:drop, :misspelling, :combination, 1)), draw -> xxhash64(item_id, draw, :seed)
  ) AS lucks
FROM written_words;

CREATE OR REPLACE TEMPORARY VIEW drawn_texts AS
SELECT
  is_spaceless,
  item_id,
  transform(
    slice(spans, 1, greatest(:substring, :misspelling)),
    span -> array_join(slice(title_words, span.start, span.length), ' ')
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
  transform(
    slice(filter(spans, span -> span.length > 1), 1, :swap),
    span -> array_join(
      transform(
        slice(title_words, span.start, span.length),
        (word, place) -> CASE place - pmod(span.luck, span.length - 1)
          WHEN 0 THEN title_words[span.start + place]
          WHEN 1 THEN title_words[span.start + place - 2]
          ELSE word
        END
      ),
      ' '
    )
  ) AS swaps,
  filter(
    transform(
      slice(letter_spans, 1, :characters),
      span -> trim(array_join(slice(title_letters, span.start, span.length), ''))
    ),
    text -> length(text) > 1 AND text RLIKE spaceless
  ) AS characters,
  -- Two words or more in any order; one that is drawn twice stands once.
  transform(
    slice(lucks, 1, greatest(:combination, :misspelling)),
    luck -> array_join(
      array_distinct(
        transform(
          sequence(1, CAST(least(:maximum_words, 2) + pmod(luck, greatest(:maximum_words - 1, 1)) AS INT)),
          n -> get(words, CAST(pmod(xxhash64(luck, n), word_count) AS INT))
        )
      ),
      ' '
    )
  ) AS combinations
FROM chances;

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
  swaps,
  characters,
  -- Some with a second slip.
  concat(misspelt, misspell(slice(misspelt, 1, CAST(:misspelling / 4 AS INT)), :seed + 1)) AS misspellings,
  concat(substrings, combinations) AS spelt,
  slice(combinations, 1, :combination) AS combinations
FROM misspelt_texts;

-- Distinct within an item: a text that several methods gave counts for the first of them.
CREATE OR REPLACE TEMPORARY VIEW synthetic_queries AS
SELECT item_id, query, method
FROM drawn_queries
LATERAL VIEW explode(
  map(
    'substring', array_distinct(substrings),
    'brand_type', array_except(brand_types, substrings),
    'drop', array_except(drops, concat(substrings, brand_types)),
    'swap', array_except(swaps, concat(substrings, brand_types, drops)),
    'characters', array_except(characters, concat(substrings, brand_types, drops, swaps)),
    'misspelling', array_except(misspellings, concat(spelt, brand_types, drops, swaps, characters)),
    'combination', array_except(combinations, concat(substrings, brand_types, drops, swaps, characters, misspellings))
  )
) AS method, queries
LATERAL VIEW explode(queries) AS query
WHERE length(query) BETWEEN 1 AND 500;
