-- What sellers wrote → synthetic queries (Qiu et al. 2022, arXiv 2208.06150: a random part of an item's text is a query
-- for it). Every choice is a hash of item, number of the draw and seed: the same on any cluster, in any order.
-- Reads: catalogue (prepare-items).
-- Parameters: cutoff (items changed at or after it are left out), draws (an item), maximum_words, seed, partitions.
-- Gives: synthetic_queries.

-- A word has a letter or a digit; a lone dash is none. Sorted, so that the order of a map's entries does not matter.
CREATE OR REPLACE TEMPORARY VIEW written_words AS
SELECT
  item_id,
  filter(split(normalise_query(title), ' '), word -> word RLIKE r'[\p{L}\p{N}]') AS title_words,
  sort_array(
    array_distinct(
      filter(
        split(
          normalise_query(
            concat_ws(' ', title, brand, element_at(split(category, '>'), -1), map_values(attributes))
          ),
          ' '
        ),
        word -> word RLIKE r'[\p{L}\p{N}]'
      )
    )
  ) AS words
FROM catalogue
WHERE updated_at < :cutoff;

-- Repartitioned, as a catalogue of one file would be worked on by one core.
CREATE OR REPLACE TEMPORARY VIEW draws AS
SELECT /*+ REPARTITION(:partitions, item_id) */ item_id, title_words, words
FROM written_words;

-- One draw in eight is a span of the title: a short title has few of them.
CREATE OR REPLACE TEMPORARY VIEW numbered_draws AS
SELECT
  item_id,
  title_words,
  words,
  draw,
  draw % 8 = 0 AS is_substring,
  xxhash64(item_id, draw, :seed) AS luck
FROM draws
LATERAL VIEW explode(sequence(0, :draws - 1)) AS draw;

CREATE OR REPLACE TEMPORARY VIEW sized_draws AS
SELECT
  *,
  CAST(
    1 + pmod(luck, greatest(least(:maximum_words, if(is_substring, size(title_words), size(words))), 1)) AS INT
  ) AS length
FROM numbered_draws;

-- substring: `length` words of the title in a row. combination: the first `length` of all words in a random order.
CREATE OR REPLACE TEMPORARY VIEW drawn_queries AS
SELECT
  item_id,
  if(is_substring, 'substring', 'combination') AS method,
  array_join(
    if(
      is_substring,
      slice(
        title_words,
        CAST(1 + pmod(xxhash64(luck), greatest(size(title_words) - length + 1, 1)) AS INT),
        length
      ),
      transform(
        slice(sort_array(transform(words, word -> struct(xxhash64(word, luck) AS place, word AS word))), 1, length),
        drawn -> drawn.word
      )
    ),
    ' '
  ) AS query
FROM sized_draws;

-- A text that both methods gave counts as a substring.
CREATE OR REPLACE TEMPORARY VIEW synthetic_queries AS
SELECT item_id, query, max(method) AS method
FROM drawn_queries
WHERE length(query) BETWEEN 1 AND 500
GROUP BY item_id, query;
