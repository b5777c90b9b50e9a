-- Pictures read → those that an earlier output holds decoded, and those still to decode, each content once.
-- Reads: read_pictures (jobs/prepare_items.py), earlier_pictures (table `pictures` of an output made in the same way).
-- Gives: known_pictures, new_pictures.

CREATE OR REPLACE TEMPORARY VIEW distinct_pictures AS
SELECT picture_digest, min(file) AS file
FROM read_pictures
WHERE reason IS NULL
GROUP BY picture_digest;

-- `uniform` goes before `shared`, so it can be told from there; who shares a picture is counted anew.
CREATE OR REPLACE TEMPORARY VIEW known_pictures AS
SELECT
  picture_digest,
  any_value(thumbnail) AS thumbnail,
  any_value(perceptual_hash) AS perceptual_hash,
  any_value(signature) AS signature,
  any_value(uninformative <=> 'uniform') AS uniform
FROM earlier_pictures
LEFT SEMI JOIN distinct_pictures USING (picture_digest)
GROUP BY picture_digest;

CREATE OR REPLACE TEMPORARY VIEW new_pictures AS
SELECT picture_digest, file
FROM distinct_pictures
LEFT ANTI JOIN earlier_pictures USING (picture_digest);
