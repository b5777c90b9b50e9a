-- Clicked pairs of the evaluation days → what kind of query, item and pair each is, to judge by segment.
-- Reads: clicks (extract-clicks), catalogue (prepare-items), synthetic_queries (generate-queries).
-- Parameters: first_training_day, last_training_day, first_day, last_day (of evaluation), cutoff, novel_from,
-- novel_below (ends of the bucket, as shares of the hash's range),
-- visual_departments (array), head_share, torso_share, sparse_words, misleading_clicks, misleading_share.
-- Gives: segments.

-- Its twin is `in_novel_bucket` in smar_model/data/training_pairs.py, which keeps these queries and items out of training.
CREATE OR REPLACE TEMPORARY FUNCTION in_novel_bucket(kind STRING, key STRING, low DOUBLE, high DOUBLE)
RETURNS BOOLEAN
RETURN crc32(encode(concat(kind, ':', key), 'UTF-8')) >= low * 4294967296
  AND crc32(encode(concat(kind, ':', key), 'UTF-8')) < high * 4294967296;

-- Words without the ending of an English plural: "dresses" and "dress", "shoes" and "shoe" are the same.
CREATE OR REPLACE TEMPORARY FUNCTION without_plurals(text STRING)
RETURNS STRING
RETURN regexp_replace(lower(text), r'(?:(?<=ss|sh|ch|x)es|(?<=[^\P{L}s])s)(?![\p{L}\p{N}])', '');

CREATE OR REPLACE TEMPORARY FUNCTION word_stems(text STRING)
RETURNS ARRAY<STRING>
RETURN array_distinct(filter(split(without_plurals(text), r'[^\p{L}\p{N}]+'), word -> word <> ''));

-- Words that could mean something to who never read them here: of two letters or more and no digit, as a number or code means
-- nothing, and of scripts that put spaces between words.
CREATE OR REPLACE TEMPORARY FUNCTION spelled_words(text STRING)
RETURNS ARRAY<STRING>
RETURN array_distinct(
  filter(
    split(without_plurals(text), r'[^\p{L}\p{M}\p{N}]+'),
    word -> word RLIKE r'^[\p{L}\p{M}]{2,}$'
      AND NOT word RLIKE r'[\p{IsHan}\p{IsHiragana}\p{IsKatakana}\p{IsThai}\p{IsLao}\p{IsKhmer}\p{IsMyanmar}]'
  )
);

-- Exactly the pairs that training may see.
CREATE OR REPLACE TEMPORARY VIEW trained_pairs AS
SELECT c.query, c.item_id, sum(c.clicks) AS clicks
FROM clicks AS c
LEFT SEMI JOIN catalogue AS i ON i.item_id = c.item_id AND i.updated_at < :cutoff
WHERE
  c.day BETWEEN :first_training_day AND :last_training_day
  AND c.clicks > 0
  AND NOT in_novel_bucket('query', c.query, :novel_from, :novel_below)
  AND NOT in_novel_bucket('item', c.item_id, :novel_from, :novel_below)
GROUP BY c.query, c.item_id;

CREATE OR REPLACE TEMPORARY VIEW evaluated_pairs AS
SELECT c.day, c.query, c.item_id, c.clicks
FROM clicks AS c
LEFT SEMI JOIN catalogue AS i ON i.item_id = c.item_id
WHERE c.day BETWEEN :first_day AND :last_day AND c.clicks > 0;

-- Both are read several times below.
CACHE LAZY TABLE trained_pairs OPTIONS ('storageLevel' 'DISK_ONLY');

CACHE LAZY TABLE evaluated_pairs OPTIONS ('storageLevel' 'DISK_ONLY');

-- Tiers are cut between numbers of clicks, so that equally frequent queries share one, and the window below is over few rows.
CREATE OR REPLACE TEMPORARY VIEW query_frequency AS
SELECT query, sum(clicks) AS clicks
FROM trained_pairs
GROUP BY query;

CREATE OR REPLACE TEMPORARY VIEW frequency_tiers AS
SELECT
  clicks,
  CASE
    WHEN clicks = 1 THEN 'once'
    WHEN more_frequent < :head_share THEN 'head'
    WHEN more_frequent < :torso_share THEN 'torso'
    ELSE 'tail'
  END AS tier
FROM (
  SELECT
    clicks,
    coalesce(sum(total) OVER (ORDER BY clicks DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)
      / sum(total) OVER (ORDER BY clicks DESC ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS more_frequent
  FROM (SELECT clicks, sum(clicks) AS total FROM query_frequency GROUP BY clicks)
);

-- The script most of a title's letters are in, and the language whose function words it has at least two of.
CREATE OR REPLACE TEMPORARY VIEW written_titles AS
SELECT
  item_id,
  -- Without a search where all is ASCII, as most titles are in most shops.
  if(
    octet_length(title) = length(title),
    'Latin',
    array_max(transform(map_entries(letters), entry -> struct(entry.value, entry.key))).key
  ) AS script,
  array_max(
    filter(
      transform(
        map_entries(
          map(
            'en', array('the', 'and', 'with', 'for', 'of', 'in', 'from'),
            'de', array('der', 'die', 'das', 'und', 'mit', 'für', 'aus', 'von'),
            'fr', array('le', 'la', 'les', 'et', 'avec', 'pour', 'en', 'du', 'de'),
            'es', array('el', 'la', 'los', 'y', 'con', 'para', 'en', 'del', 'de'),
            'it', array('il', 'la', 'e', 'con', 'per', 'di', 'da', 'in'),
            'pt', array('o', 'a', 'os', 'e', 'com', 'para', 'em', 'do', 'de'),
            'nl', array('de', 'het', 'een', 'en', 'met', 'voor', 'van'),
            'sv', array('och', 'med', 'för', 'av', 'till', 'i', 'en'),
            'pl', array('i', 'z', 'ze', 'dla', 'na', 'do', 'w')
          )
        ),
        entry -> struct(size(array_intersect(words, entry.value)) AS hits, entry.key)
      ),
      entry -> entry.hits > 1
    )
  ).key AS language
FROM (
  SELECT
    item_id,
    title,
    split(lower(title), r'[^\p{L}\p{N}]+') AS words,
    map(
      'Latin', regexp_count(title, r'\p{IsLatin}'),
      'Cyrillic', regexp_count(title, r'\p{IsCyrillic}'),
      'Greek', regexp_count(title, r'\p{IsGreek}'),
      'Arabic', regexp_count(title, r'\p{IsArabic}'),
      'Hebrew', regexp_count(title, r'\p{IsHebrew}'),
      'Devanagari', regexp_count(title, r'\p{IsDevanagari}'),
      'Thai', regexp_count(title, r'\p{IsThai}'),
      'Hangul', regexp_count(title, r'\p{IsHangul}'),
      'Han', regexp_count(title, r'\p{IsHan}'),
      -- Japanese is told from Chinese by its kana.
      'Kana', regexp_count(title, r'[\p{IsHan}\p{IsHiragana}\p{IsKatakana}]')
        * CAST(title RLIKE r'[\p{IsHiragana}\p{IsKatakana}]' AS INT)
    ) AS letters
  FROM catalogue
);

CACHE LAZY TABLE written_titles OPTIONS ('storageLevel' 'DISK_ONLY');

CREATE OR REPLACE TEMPORARY VIEW usual_writing AS
SELECT mode(script, true) AS script, mode(language, true) AS language
FROM written_titles;

-- The last word of the leaf names the kind of thing: "casual shoes", "perfume and body mist".
CREATE OR REPLACE TEMPORARY VIEW kinds_of_things AS
SELECT DISTINCT element_at(word_stems(element_at(split(category, '>'), -1)), -1) AS kind
FROM (SELECT DISTINCT category FROM catalogue)
WHERE size(word_stems(element_at(split(category, '>'), -1))) > 0;

CREATE OR REPLACE TEMPORARY VIEW evaluated_items AS
SELECT
  i.item_id,
  i.department,
  i.informative_pictures,
  w.script,
  w.language,
  word_stems(i.title) AS title_stems,
  word_stems(element_at(split(i.category, '>'), -1)) AS leaf_stems,
  CASE
    -- These scripts put no space between words: two characters are taken for one.
    WHEN w.script IN ('Han', 'Kana', 'Thai') THEN length(i.title) DIV 2
    ELSE size(
      array_except(
        filter(word_stems(i.title), word -> word RLIKE r'^\p{L}{2,}$'),
        word_stems(i.brand)
      )
    )
  END AS informative_words
FROM catalogue AS i
INNER JOIN written_titles AS w ON w.item_id = i.item_id
LEFT SEMI JOIN evaluated_pairs AS e ON e.item_id = i.item_id;

CREATE OR REPLACE TEMPORARY VIEW other_kinds AS
SELECT item_id
FROM (
  SELECT item_id, leaf_stems, title_stems, explode(title_stems) AS stem
  FROM evaluated_items
  WHERE NOT arrays_overlap(title_stems, leaf_stems)
)
LEFT SEMI JOIN kinds_of_things ON kind = stem
GROUP BY item_id;

CREATE OR REPLACE TEMPORARY VIEW contradicted_titles AS
SELECT t.item_id
FROM trained_pairs AS t
INNER JOIN evaluated_items AS i ON i.item_id = t.item_id
GROUP BY t.item_id
HAVING
  sum(t.clicks) >= :misleading_clicks
  AND sum(if(arrays_overlap(word_stems(t.query), i.title_stems), 0, t.clicks)) >= :misleading_share * sum(t.clicks);

-- The first rule that fits: foreign (another script, or the function words of another language, than most of the catalogue),
-- sparse (few words of letters besides the brand's), misleading (names another kind of thing than its category's leaf, or
-- shares no word with the queries of most of its training clicks), rich (all others).
CREATE OR REPLACE TEMPORARY VIEW title_kinds AS
SELECT
  i.item_id,
  i.department,
  i.informative_pictures,
  CASE
    WHEN i.script <> u.script OR i.language <> u.language THEN 'foreign'
    WHEN i.informative_words < :sparse_words THEN 'sparse'
    WHEN o.item_id IS NOT NULL OR c.item_id IS NOT NULL THEN 'misleading'
    ELSE 'rich'
  END AS title_kind
FROM evaluated_items AS i
CROSS JOIN usual_writing AS u
LEFT JOIN other_kinds AS o ON o.item_id = i.item_id
LEFT JOIN contradicted_titles AS c ON c.item_id = i.item_id;

-- The evaluated queries are few beside the synthetic ones: they are sent to these, not shuffled with them.
CREATE OR REPLACE TEMPORARY VIEW also_synthetic AS
SELECT DISTINCT s.query
FROM synthetic_queries AS s
LEFT SEMI JOIN evaluated_pairs AS e ON e.query = s.query;

-- What training has not read: neither in a query of the training days, whether clicked or kept out by the bucket, nor in the text of
-- an item that stood before the cutoff, nor misspelt in a synthetic query of one: the other synthetic queries are made of that text. Words
-- are few by then: they are sent to the synthetic queries, which are millions, and split at spaces alone.
CREATE OR REPLACE TEMPORARY VIEW read_texts AS
SELECT DISTINCT query AS text
FROM clicks
WHERE day BETWEEN :first_training_day AND :last_training_day
UNION ALL
SELECT fold_case(concat_ws(' ', title, category, brand, array_join(map_values(attributes), ' '))) AS text
FROM catalogue
WHERE updated_at < :cutoff;

CREATE OR REPLACE TEMPORARY VIEW new_words AS
SELECT w.query, w.written, w.word
FROM (
  SELECT query, written, explode(words) AS word
  FROM (
    SELECT query, written, spelled_words(written) AS words
    FROM (SELECT query, explode(split(query, ' ')) AS written FROM (SELECT DISTINCT query FROM evaluated_pairs))
  )
) AS w
LEFT ANTI JOIN (SELECT explode(words) AS word FROM (SELECT spelled_words(text) AS words FROM read_texts)) AS r
  ON r.word = w.word;

-- Read twice below.
CACHE LAZY TABLE new_words OPTIONS ('storageLevel' 'DISK_ONLY');

CREATE OR REPLACE TEMPORARY VIEW misspelt_for_training AS
SELECT /*+ BROADCAST(n) */ DISTINCT s.written
FROM (
  SELECT item_id, explode(split(query, ' ')) AS written
  FROM synthetic_queries
  WHERE method IN ('misspelling', 'characters')
) AS s
LEFT SEMI JOIN (SELECT DISTINCT written FROM new_words) AS n ON n.written = s.written
LEFT SEMI JOIN (SELECT item_id FROM catalogue WHERE updated_at < :cutoff) AS i ON i.item_id = s.item_id;

CREATE OR REPLACE TEMPORARY VIEW unseen_queries AS
SELECT DISTINCT n.query
FROM new_words AS n
LEFT ANTI JOIN misspelt_for_training AS m ON m.written = n.written;

CREATE OR REPLACE TEMPORARY VIEW segments AS
SELECT
  e.day,
  e.query,
  e.item_id,
  e.clicks,
  f.query IS NOT NULL AS query_seen,
  t.item_id IS NOT NULL AS item_seen,
  coalesce(tiers.tier, 'new') AS query_tier,
  k.department,
  array_contains(:visual_departments, k.department) AS is_visual,
  k.title_kind,
  k.informative_pictures > 0 AS picture_informative,
  a.query IS NOT NULL AS also_synthetic,
  u.query IS NOT NULL AS unseen_words
FROM evaluated_pairs AS e
INNER JOIN title_kinds AS k ON k.item_id = e.item_id
LEFT JOIN query_frequency AS f ON f.query = e.query
LEFT JOIN frequency_tiers AS tiers ON tiers.clicks = f.clicks
LEFT JOIN (SELECT DISTINCT item_id FROM trained_pairs) AS t ON t.item_id = e.item_id
LEFT JOIN also_synthetic AS a ON a.query = e.query
LEFT JOIN unseen_queries AS u ON u.query = e.query;
