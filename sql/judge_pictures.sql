-- Pictures read and decoded → every listed picture with its place among the usable ones and what it tells.
-- Reads: read_pictures, decoded_pictures (jobs/prepare_items.py), known_pictures (find_new_pictures.sql).
-- Parameters: shared_by_items, near (largest difference between the signatures of near copies).
-- Gives: looks (what is kept of each content), judged_pictures.

CREATE OR REPLACE TEMPORARY VIEW looks AS
SELECT picture_digest, thumbnail, perceptual_hash, signature, uniform, reason, detail FROM decoded_pictures
UNION ALL
SELECT picture_digest, thumbnail, perceptual_hash, signature, uniform, NULL AS reason, NULL AS detail
FROM known_pictures;

CREATE OR REPLACE TEMPORARY VIEW seen_pictures AS
SELECT
  r.item_id,
  r.place,
  r.file,
  r.picture_digest,
  l.perceptual_hash,
  l.signature,
  l.uniform,
  coalesce(r.reason, l.reason) AS reason,
  coalesce(r.detail, l.detail) AS detail
FROM read_pictures AS r
LEFT JOIN looks AS l ON l.picture_digest = r.picture_digest;

-- On how many items the same content is: the highest rank of an item.
CREATE OR REPLACE TEMPORARY VIEW counted_pictures AS
SELECT *, max(item_rank) OVER (PARTITION BY picture_digest) AS items
FROM (
  SELECT *, dense_rank() OVER (PARTITION BY picture_digest ORDER BY item_id) AS item_rank
  FROM seen_pictures
);

-- Near copies: of the pictures with one hash, those whose signature is near that of the one on the most items. The
-- hash alone would not do: most perfume bottles have the same.
CREATE OR REPLACE TEMPORARY VIEW compared_pictures AS
SELECT
  *,
  array_max(
    zip_with(
      signature,
      max_by(signature, struct(items, picture_digest)) OVER (PARTITION BY perceptual_hash, uniform),
      (own, most_shown) -> abs(own - most_shown)
    )
  ) <= :near AS near
FROM counted_pictures;

CREATE OR REPLACE TEMPORARY VIEW judged_pictures AS
SELECT
  item_id,
  file,
  picture_digest,
  CAST(row_number() OVER (PARTITION BY item_id, reason IS NULL ORDER BY place) - 1 AS INT) AS frame,
  perceptual_hash,
  signature,
  CASE
    WHEN uniform THEN 'uniform'
    WHEN items > :shared_by_items THEN 'shared'
    WHEN near AND max(near_rank) OVER (PARTITION BY perceptual_hash, uniform, near) > :shared_by_items THEN 'shared'
  END AS uninformative,
  reason,
  detail
FROM (
  SELECT *, dense_rank() OVER (PARTITION BY perceptual_hash, uniform, near ORDER BY item_id) AS near_rank
  FROM compared_pictures
);
