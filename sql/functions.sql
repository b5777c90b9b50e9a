-- Functions that several jobs use.

-- The one form of a query: lower case, words parted by single spaces, none around. White space is what Python's
-- str.split() parts at, so that smar_model/data/query_text.py gives the same.
CREATE OR REPLACE TEMPORARY FUNCTION normalise_query(text STRING)
RETURNS STRING
RETURN trim(regexp_replace(lower(text), r'[\s\p{Z}\x1C-\x1F\x85]+', ' '));

-- White space collapsed, nothing else changed; empty where null.
CREATE OR REPLACE TEMPORARY FUNCTION collapse_space(text STRING)
RETURNS STRING
RETURN trim(regexp_replace(coalesce(text, ''), r'[\s\p{Z}\x1C-\x1F\x85]+', ' '));
