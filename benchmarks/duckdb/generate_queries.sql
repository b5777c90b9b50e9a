-- The methods `substring` and `combination` of sql/generate_queries.sql in DuckDB's dialect (titles in scripts with spaces):
-- as many texts an item, distinct within it.
-- Parameters ($name): catalogue (glob), substring, combination, maximum_words.

CREATE MACRO words_of(text) AS (
  list_filter(
    string_split(trim(regexp_replace(lower(nfc_normalize(text)), '[\s\p{Z}\x1C-\x1F\x{85}]+', ' ', 'g')), ' '),
    lambda word: regexp_matches(word, '[\p{L}\p{N}]')
  )
);

CREATE VIEW synthetic_queries AS
WITH written_words AS (
  SELECT
    item_id,
    words_of(title) AS title_words,
    list_distinct(
      words_of(concat_ws(' ', title, brand, string_split(category, '>')[-1], array_to_string(map_values(attributes), ' ')))
    ) AS words
  FROM read_parquet($catalogue)
),
drawn AS (
  SELECT
    item_id,
    list_distinct(
      list_transform(
        list_sort(
          list_filter(
            list_transform(
              range(len(title_words) * $maximum_words),
              lambda n: row(hash(item_id, n), n // $maximum_words + 1, n // $maximum_words + 1 + n % $maximum_words)
            ),
            lambda span: span[3] <= len(title_words)
          )
        )[1:$substring],
        lambda span: array_to_string(title_words[span[2]:span[3]], ' ')
      )
    ) AS substrings,
    list_distinct(
      list_transform(
        range($combination),
        lambda draw: array_to_string(
          list_distinct(
            list_transform(
              range(2 + (hash(item_id, draw, 'length') % ($maximum_words - 1))::BIGINT),
              lambda n: words[1 + (hash(item_id, draw, n) % len(words))::BIGINT]
            )
          ),
          ' '
        )
      )
    ) AS combinations
  FROM written_words
)
SELECT item_id, unnest(substrings) AS query, 'substring' AS method FROM drawn
UNION ALL
SELECT
  item_id,
  unnest(list_filter(combinations, lambda query: NOT list_contains(substrings, query))) AS query,
  'combination' AS method
FROM drawn;
