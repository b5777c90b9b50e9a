-- Functions that several jobs use.

-- White space collapsed, nothing else changed; empty where null. White space is what Python's str.split() parts at.
CREATE OR REPLACE TEMPORARY FUNCTION collapse_space(text STRING)
RETURNS STRING
RETURN trim(regexp_replace(coalesce(text, ''), r'[\s\p{Z}\x1C-\x1F\x85]+', ' '));

-- NFKC and full case folding. Spark 4.1 has no function for either; ICU, which it brings along, has both. Folding can
-- undo a composition, so it is composed once more. Empty where null.
CREATE OR REPLACE TEMPORARY FUNCTION fold_case(text STRING)
RETURNS STRING
RETURN java_method(
  'com.ibm.icu.text.Normalizer',
  'compose',
  java_method(
    'com.ibm.icu.lang.UCharacter',
    'foldCase',
    java_method('com.ibm.icu.text.Normalizer', 'compose', coalesce(text, ''), true),
    true
  ),
  true
);

-- Emails, card and phone numbers. smar_model/data/query_text.py has the same patterns and says what they take. The
-- first pattern is what all of them have in common: most queries are done with there.
CREATE OR REPLACE TEMPORARY FUNCTION mask_personal_data(text STRING)
RETURNS STRING
RETURN if(text RLIKE r'@|[0-9](?:[^0-9]{0,3}[0-9]){6}', regexp_replace(
  regexp_replace(
    regexp_replace(text, r'[^ <>@,;:]{1,64}@[^ <>@,;:]{1,255}\.[^ <>@.,;:]{2,24}', '<email>'),
    r'(?<![0-9])(?:3[0-9]{3}[ -]?[0-9]{6}[ -]?[0-9]{4,5}|[2-6][0-9]{3}(?:[ -]?[0-9]{4}){3}(?:[ -]?[0-9]{3})?)(?![0-9])',
    '<card>'
  ),
  r'(?<![0-9a-z])(?:(?:\+|00)[1-9](?:[ ()./-]{0,2}[0-9]){6,13}|\(?[0-9]{3,5}\)?[ ./-]{1,2}[0-9]{3,4}[ .-][0-9]{4}|0[0-9]{2,4}[ /-][0-9]{6,8}|0[1-9](?:[ .-][0-9]{2}){4}|(?<![0-9][.,])[0-9]{10,11})(?![0-9a-z])',
  '<phone>'
), text);

-- The one form of a query; null stays null.
CREATE OR REPLACE TEMPORARY FUNCTION normalise_query(text STRING)
RETURNS STRING
RETURN if(text IS NULL, NULL, mask_personal_data(collapse_space(fold_case(text))));

-- Delivered text as every later step can take it: valid UTF-8, for which Parquet does not vouch, and without NUL
-- characters, at which arrays of fixed width cut a text off.
CREATE OR REPLACE TEMPORARY FUNCTION mend_text(text STRING)
RETURNS STRING
RETURN replace(make_valid_utf8(text), '\0', '');

CREATE OR REPLACE TEMPORARY FUNCTION mend_texts(texts ARRAY<STRING>)
RETURNS ARRAY<STRING>
RETURN transform(texts, text -> replace(make_valid_utf8(text), '\0', ''));

-- Entries sorted by key, and where each key's first one is → a map; a key's values that differ are joined.
CREATE OR REPLACE TEMPORARY FUNCTION join_values(
  entries ARRAY<STRUCT<key: STRING, place: INT, value: STRING>>, starts ARRAY<INT>
)
RETURNS MAP<STRING, STRING>
RETURN map_from_entries(
  transform(
    starts,
    (start, number) -> struct(
      entries[start].key AS key,
      array_join(
        array_distinct(
          filter(
            slice(entries, start + 1, coalesce(get(starts, number + 1), size(entries)) - start).value,
            value -> trim(value) <> ''
          )
        ),
        ', '
      ) AS value
    )
  )
);

CREATE OR REPLACE TEMPORARY FUNCTION join_sorted_entries(entries ARRAY<STRUCT<key: STRING, place: INT, value: STRING>>)
RETURNS MAP<STRING, STRING>
RETURN join_values(
  entries,
  filter(
    transform(entries, (entry, place) -> place),
    place -> place = 0 OR get(entries, place).key <> get(entries, place - 1).key
  )
);

CREATE OR REPLACE TEMPORARY FUNCTION map_of_entries(entries ARRAY<STRUCT<key: STRING, value: STRING>>)
RETURNS MAP<STRING, STRING>
RETURN if(
  size(array_distinct(entries.key)) = size(entries),
  map_from_entries(entries),
  join_sorted_entries(sort_array(transform(entries, (entry, place) -> struct(entry.key, place, entry.value))))
);

-- Parquet and JSON let a map have a key twice, and Spark reads it so; most of what it can do with a map fails then.
CREATE OR REPLACE TEMPORARY FUNCTION mend_map(attributes MAP<STRING, STRING>)
RETURNS MAP<STRING, STRING>
RETURN map_of_entries(
  transform(
    filter(map_entries(attributes), entry -> entry.key IS NOT NULL),
    entry -> struct(
      replace(make_valid_utf8(entry.key), '\0', '') AS key, replace(make_valid_utf8(entry.value), '\0', '') AS value
    )
  )
);
