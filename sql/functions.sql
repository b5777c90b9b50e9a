-- Functions that several jobs use.

-- White space collapsed, nothing else changed; empty where null. White space is what Python's str.split() parts at.
CREATE OR REPLACE TEMPORARY FUNCTION collapse_space(text STRING)
RETURNS STRING
RETURN trim(regexp_replace(coalesce(text, ''), r'[\s\p{Z}\x1C-\x1F\x85]+', ' '));

-- Without characters that nobody sees; joiners stay where a script needs them. Twin: `visible_text` in smar_model/data/query_text.py.
CREATE OR REPLACE TEMPORARY FUNCTION visible_text(text STRING)
RETURNS STRING
RETURN regexp_replace(
  regexp_replace(
    text,
    r'[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\x{e0000}-\x{e0fff}]+',
    ''
  ),
  r'(?<![\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af])[\u200c\u200d]+|[\u200c\u200d]+(?![\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\u200c\u200d])',
  ''
);

-- The same of a map's values: a lambda cannot call a function of SQL.
CREATE OR REPLACE TEMPORARY FUNCTION visible_values(attributes MAP<STRING, STRING>)
RETURNS MAP<STRING, STRING>
RETURN transform_values(
  attributes,
  (name, value) -> regexp_replace(
    regexp_replace(
      value,
      r'[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\x{e0000}-\x{e0fff}]+',
      ''
    ),
    r'(?<![\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af])[\u200c\u200d]+|[\u200c\u200d]+(?![\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af\u200c\u200d])',
    ''
  )
);

-- NFKC and full case folding of what can be seen. Spark 4.1 has no function for either; ICU, which it brings along, has both. Folding can
-- undo a composition, so it is composed once more. Empty where null.
CREATE OR REPLACE TEMPORARY FUNCTION fold_case(text STRING)
RETURNS STRING
RETURN java_method(
  'com.ibm.icu.text.Normalizer',
  'compose',
  java_method(
    'com.ibm.icu.lang.UCharacter',
    'foldCase',
    java_method('com.ibm.icu.text.Normalizer', 'compose', coalesce(visible_text(text), ''), true),
    true
  ),
  true
);

-- Emails, card and phone numbers. smar_model/data/query_text.py is the twin of all that follows, with the same patterns, and
-- says what they take.

-- Digits and dashes that NFKC leaves, as those of ASCII; what has no width goes. Null where there are no seven digits: most
-- queries are done with here, as all that follows is null then, for arguments of functions are worked out before any `if`.
CREATE OR REPLACE TEMPORARY FUNCTION plain_digits(text STRING)
RETURNS STRING
RETURN if(text RLIKE r'(?:\p{Nd}\P{Nd}*){7}', trim(regexp_replace(translate(
  text,
  '٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹०१२३४५६७८९০১২৩৪৫৬৭৮৯๐๑๒๓๔๕๖๗๘๙၀၁၂၃၄၅၆၇၈၉០១២៣៤៥៦៧៨៩\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u00ad\u200b\u200c\u200d\u2060\ufeff',
  '0123456789012345678901234567890123456789012345678901234567890123456789-------'
), ' +', ' ')), NULL);

-- A text cut before each group of digits.
CREATE OR REPLACE TEMPORARY FUNCTION number_pieces(text STRING)
RETURNS ARRAY<STRING>
RETURN split(text, r'(?<![0-9])(?=[0-9])', -1);

-- Every number that begins with a piece: how many groups it has, it and what follows, its digits.
CREATE OR REPLACE TEMPORARY FUNCTION number_windows(pieces ARRAY<STRING>)
RETURNS ARRAY<ARRAY<STRUCT<groups: INT, written: STRING, digits: STRING>>>
RETURN transform(pieces, (piece, n) -> transform(
  transform(
    sequence(1, least(6, size(pieces) - n)),
    groups -> struct(groups, array_join(slice(pieces, n + 1, groups), '') AS written)
  ),
  w -> struct(w.groups, w.written, regexp_replace(w.written, '[^0-9]', '') AS digits)
));

-- Digits of every number of 9 to 19 digits in a text, written in up to six groups: those that a mask could take.
CREATE OR REPLACE TEMPORARY FUNCTION numbers_of(text STRING)
RETURNS ARRAY<STRING>
RETURN coalesce(array_distinct(transform(
  filter(
    flatten(number_windows(number_pieces(plain_digits(text)))),
    w -> length(w.digits) BETWEEN 9 AND 19 AND w.written RLIKE r'^(?:[0-9]{1,19}[ ()._/-]{1,4}){0,5}[0-9]{1,19}[^0-9]*$'
  ),
  w -> w.digits
)), CAST(array() AS ARRAY<STRING>));

-- How many groups the longest card number has that begins with each piece; 0 where none does.
CREATE OR REPLACE TEMPORARY FUNCTION card_spans(pieces ARRAY<STRING>, catalogue_numbers ARRAY<STRING>)
RETURNS ARRAY<INT>
RETURN transform(number_windows(pieces), windows -> array_max(transform(
  windows,
  w -> if(
    w.written RLIKE r'^(?:[0-9]{3,19}[ ._/-]{1,3}){0,5}[0-9]{1,19}[^0-9]*$'
      AND w.digits RLIKE r'^(?:4[0-9]{12}(?:[0-9]{3}){0,2}|(?:2[2-7]|5[1-5]|8[12])[0-9]{14}|3[47][0-9]{13}|3(?:0[0-59]|[689][0-9])[0-9]{11}|3(?:5[2-8]|[689][0-9])[0-9]{13}|(?:5[0678]|6[0-9])[0-9]{10,17}|9792[0-9]{12})$'
      AND NOT (w.groups = 3 AND w.written RLIKE r'^([0-9]{2})[0-9]{2}[^0-9]+\1[0-9]{2}[^0-9]+\1[0-9]{2}[^0-9]*$')
      AND NOT array_contains(catalogue_numbers, w.digits)
      AND aggregate(
        sequence(1, length(w.digits)),
        0,
        (sum, place) -> sum + CAST(substr(
          if((length(w.digits) - place) % 2 = 1, translate(w.digits, '0123456789', '0246813579'), w.digits), place, 1
        ) AS INT)
      ) % 10 = 0
      AND NOT (w.groups = 1 AND length(w.digits) IN (12, 13) AND aggregate(
        sequence(1, length(w.digits)),
        0,
        (sum, place) -> sum + CAST(substr(
          if((length(w.digits) - place) % 2 = 1, translate(w.digits, '0123456789', '0369258147'), w.digits), place, 1
        ) AS INT)
      ) % 10 = 0),
    w.groups,
    0
  )
)));

-- Whether the card number of an earlier piece goes on in each piece; the last entry is no piece.
CREATE OR REPLACE TEMPORARY FUNCTION card_goes_on(spans ARRAY<INT>)
RETURNS ARRAY<BOOLEAN>
RETURN transform(
  sequence(0, size(spans)), n -> coalesce(exists(sequence(1, 6), back -> get(spans, n - back) > back), false)
);

CREATE OR REPLACE TEMPORARY FUNCTION replace_cards(pieces ARRAY<STRING>, spans ARRAY<INT>, goes_on ARRAY<BOOLEAN>)
RETURNS STRING
RETURN array_join(transform(pieces, (piece, n) -> if(
  goes_on[n] OR spans[n] > 0,
  concat(if(goes_on[n], '', '<card>'), if(goes_on[n + 1], '', regexp_replace(piece, '^[0-9]+', ''))),
  piece
)), '');

CREATE OR REPLACE TEMPORARY FUNCTION mask_card_pieces(pieces ARRAY<STRING>, spans ARRAY<INT>)
RETURNS STRING
RETURN replace_cards(pieces, spans, card_goes_on(spans));

CREATE OR REPLACE TEMPORARY FUNCTION mask_cards(text STRING, catalogue_numbers ARRAY<STRING>)
RETURNS STRING
RETURN mask_card_pieces(number_pieces(text), card_spans(number_pieces(text), catalogue_numbers));

-- Not those that the catalogue holds, and in one group no ISBN-10 and no barcode of 12 digits.
CREATE OR REPLACE TEMPORARY FUNCTION mask_phones(text STRING, catalogue_numbers ARRAY<STRING>)
RETURNS STRING
RETURN array_join(zip_with(
  split(text, r'(?<![0-9a-z])(?<![ed]>)(?:(?:\(?\+ ?|00 ?)[1-9](?:[ ()./-]{0,3}[0-9]){6,14}|(?:[0178][ .-]|[18](?=\())?(?![0-9]{2}0[ .-][0-9]{2}0[ .-][0-9]{3}0)(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ ./-]{1,3})[0-9]{3}[ .-]{1,3}(?:[0-9]{4}|[0-9]{2}[ .-][0-9]{2})|3[0-9]{2}[ .-][0-9]{7}|\(?0[1-9]\)?[ ./-]{1,3}[0-9]{3,4}[ .-]{1,3}[0-9]{4}|\(?0[1-9][0-9]\)?[ ./-]{1,3}[0-9]{3,4}[ .-]{1,3}[0-9]{4}|\(?0[1-57-9][0-9]{2,3}\)?[ ./-]{1,3}[0-9]{3}[ .-]{1,3}(?:[0-9]{4}|[0-9]{2}[ .-][0-9]{2})|01[5-7][0-9][ ./-][0-9]{4}[ .-][0-9]{4}|0[1-9]{1,3}\([0-9]{3,4}\)[0-9]{4}|0[1-9][1-9][ .-]9[0-9]{4}[ .-][0-9]{4}|0(?:4[0-9]{2}|120)[ .-][0-9]{3}[ .-][0-9]{3}|\(?0[17][0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{3}|\(?0[0-9]{1,4}\)?(?: ?[/-] ?| )[0-9]{6,8}|0[1-9](?:[ ./-][0-9]{2}){4}|0[0-9]{1,3}[ /-][0-9]{2,3}[ -][0-9]{2,3}[ -][0-9]{2}(?:[ -][0-9]{2})?|(?<![^0-9][0-9] )(?<!^[0-9] )(?<![ed]> )(?![0-9]{2}0[ .-][0-9]{2}0[ .-][0-9]{2}0)[5-9][0-9]{2}[ .-][0-9]{3}[ .-][0-9]{3}|[5-9][0-9]{2}[ .-][0-9]{2}[ .-][0-9]{2}[ .-][0-9]{2}|\(?[1-9][1-9]\)?[ .-][0-9]{3}[ .-][0-9]{2}[ .-][0-9]{2}|\([1-9][1-9]\) ?9?[0-9]{4}[ .-]?[0-9]{4}|[1-9][1-9][ .-]9[0-9]{4}[ .-][0-9]{4}|[1-9][1-9][ .-](?![0-9]{3}0[ .-][0-9]{3}0|(?:19|20)[0-9]{2}[ .-](?:19|20))[0-9]{4}[ .-][0-9]{4}|1[3-9][0-9][ .-][0-9]{4}[ .-][0-9]{4}|0?[6-9][0-9]{4}[ -][0-9]{5}|(?<![0-9]\.)(?<![ed]>\.)(?:0(?:[2-9][0-9]|1[1-9])[0-9]{7}|0[1-9][0-9]{9}|01[5-7][0-9]{9}|[2-9][0-9]{9}|1[2-9][0-9]{9}|[78][3489][0-9]{9}|[1-9][1-9]9[0-9]{8}))(?: ?(?:ext(?:ension)?\.?|x|#) ?[0-9]{1,5})?(?![0-9a-z])', -1),
  transform(
    regexp_extract_all(
      text,
      r'(?<![0-9a-z])(?<![ed]>)(?:(?:\(?\+ ?|00 ?)[1-9](?:[ ()./-]{0,3}[0-9]){6,14}|(?:[0178][ .-]|[18](?=\())?(?![0-9]{2}0[ .-][0-9]{2}0[ .-][0-9]{3}0)(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ ./-]{1,3})[0-9]{3}[ .-]{1,3}(?:[0-9]{4}|[0-9]{2}[ .-][0-9]{2})|3[0-9]{2}[ .-][0-9]{7}|\(?0[1-9]\)?[ ./-]{1,3}[0-9]{3,4}[ .-]{1,3}[0-9]{4}|\(?0[1-9][0-9]\)?[ ./-]{1,3}[0-9]{3,4}[ .-]{1,3}[0-9]{4}|\(?0[1-57-9][0-9]{2,3}\)?[ ./-]{1,3}[0-9]{3}[ .-]{1,3}(?:[0-9]{4}|[0-9]{2}[ .-][0-9]{2})|01[5-7][0-9][ ./-][0-9]{4}[ .-][0-9]{4}|0[1-9]{1,3}\([0-9]{3,4}\)[0-9]{4}|0[1-9][1-9][ .-]9[0-9]{4}[ .-][0-9]{4}|0(?:4[0-9]{2}|120)[ .-][0-9]{3}[ .-][0-9]{3}|\(?0[17][0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{3}|\(?0[0-9]{1,4}\)?(?: ?[/-] ?| )[0-9]{6,8}|0[1-9](?:[ ./-][0-9]{2}){4}|0[0-9]{1,3}[ /-][0-9]{2,3}[ -][0-9]{2,3}[ -][0-9]{2}(?:[ -][0-9]{2})?|(?<![^0-9][0-9] )(?<!^[0-9] )(?<![ed]> )(?![0-9]{2}0[ .-][0-9]{2}0[ .-][0-9]{2}0)[5-9][0-9]{2}[ .-][0-9]{3}[ .-][0-9]{3}|[5-9][0-9]{2}[ .-][0-9]{2}[ .-][0-9]{2}[ .-][0-9]{2}|\(?[1-9][1-9]\)?[ .-][0-9]{3}[ .-][0-9]{2}[ .-][0-9]{2}|\([1-9][1-9]\) ?9?[0-9]{4}[ .-]?[0-9]{4}|[1-9][1-9][ .-]9[0-9]{4}[ .-][0-9]{4}|[1-9][1-9][ .-](?![0-9]{3}0[ .-][0-9]{3}0|(?:19|20)[0-9]{2}[ .-](?:19|20))[0-9]{4}[ .-][0-9]{4}|1[3-9][0-9][ .-][0-9]{4}[ .-][0-9]{4}|0?[6-9][0-9]{4}[ -][0-9]{5}|(?<![0-9]\.)(?<![ed]>\.)(?:0(?:[2-9][0-9]|1[1-9])[0-9]{7}|0[1-9][0-9]{9}|01[5-7][0-9]{9}|[2-9][0-9]{9}|1[2-9][0-9]{9}|[78][3489][0-9]{9}|[1-9][1-9]9[0-9]{8}))(?: ?(?:ext(?:ension)?\.?|x|#) ?[0-9]{1,5})?(?![0-9a-z])',
      0
    ),
    phone -> struct(phone AS written, regexp_replace(phone, '[^0-9]', '') AS digits)
  ),
  (between, w) -> concat(between, CASE
    WHEN w IS NULL THEN ''
    WHEN array_contains(catalogue_numbers, w.digits) AND NOT w.written RLIKE r'^\(?(?:\+|00)' THEN w.written
    WHEN w.written RLIKE r'^[0-578][0-9]{9}$' AND aggregate(
        sequence(1, 10), 0, (sum, place) -> sum + (11 - place) * CAST(substr(w.digits, place, 1) AS INT)
      ) % 11 = 0 THEN w.written
    WHEN w.written RLIKE '^[0-9]{12}$' AND aggregate(
        sequence(1, length(w.digits)),
        0,
        (sum, place) -> sum + CAST(substr(
          if((length(w.digits) - place) % 2 = 1, translate(w.digits, '0123456789', '0369258147'), w.digits), place, 1
        ) AS INT)
      ) % 10 = 0 THEN w.written
    ELSE '<phone>'
  END)
), '');

-- As long as nothing is masked, a query keeps its own digits and dashes.
CREATE OR REPLACE TEMPORARY FUNCTION unless_masked(text STRING, plain STRING, masked STRING)
RETURNS STRING
RETURN if(plain IS NULL OR masked = plain, text, masked);

CREATE OR REPLACE TEMPORARY FUNCTION mask_numbers(text STRING, catalogue_numbers ARRAY<STRING>)
RETURNS STRING
RETURN unless_masked(
  text, plain_digits(text), mask_phones(mask_cards(plain_digits(text), catalogue_numbers), catalogue_numbers)
);

CREATE OR REPLACE TEMPORARY FUNCTION mask_emails(text STRING)
RETURNS STRING
RETURN if(contains(text, '@'), regexp_replace(text, r'[^ <>@,;:]{1,64}@[^ <>@,;:]{1,255}\.[^ <>@.,;:]{2,24}', '<email>'), text);

-- What sellers wrote, as a query for it would be: the numbers in it are the catalogue's.
CREATE OR REPLACE TEMPORARY FUNCTION keep_own_numbers(text STRING)
RETURNS STRING
RETURN mask_numbers(text, numbers_of(text));

CREATE OR REPLACE TEMPORARY FUNCTION normalise_item_text(text STRING)
RETURNS STRING
RETURN if(text IS NULL, NULL, keep_own_numbers(mask_emails(collapse_space(fold_case(text)))));

-- The one form of a query; null stays null. `catalogue_numbers`: digits of the numbers that the catalogue holds
-- (`numbers_of`), as many as queries may hold: no mask takes them.
CREATE OR REPLACE TEMPORARY FUNCTION normalise_query(
  text STRING, catalogue_numbers ARRAY<STRING> DEFAULT CAST(array() AS ARRAY<STRING>)
)
RETURNS STRING
RETURN if(text IS NULL, NULL, mask_numbers(mask_emails(collapse_space(fold_case(text))), catalogue_numbers));

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
