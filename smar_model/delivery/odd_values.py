"""Values that no rule refuses and that hardly anybody means: what Excel, pandas, browsers and exports put in a text's place."""

from __future__ import annotations

MARKUP = r"<\s*/?[A-Za-z][^<>]*>|&(?:[a-z]{2,8}|#\d{1,6}|#x[0-9a-fA-F]{1,6});"
MASKS = "<(?:email|card|phone)>"
"""In queries of a log that masks them already, as `smar serve --log` does."""
MOJIBAKE = (
    r"Ã[\x{80}-\x{BF}\x{152}\x{153}\x{160}\x{161}\x{178}\x{17D}\x{192}\x{2013}-\x{203A}\x{20AC}\x{2122}]|Â[\x{A0}-\x{BF}]|â€|"
    r"(?:[ÐÑ][\x{80}-\x{BF}]){2}|\x{FFFD}"
)
"""UTF-8 that was read as Windows-1252, or letters that were lost."""
NO_VALUES = "'undefined', 'null', 'nan', 'none', '<na>', 'nil', 'nat'"
HIGHEST_PRICE = 99_999_999_999_999
"""As in sql/prepare_items.sql; a test holds them together."""
_IS_CURRENCY = "coalesce(regexp_full_match(offer.currency, '[A-Z]{3}'), false)"
_SPACES = r"^[\s\p{Z}]|[\s\p{Z}]$"
_IN_1970 = "BETWEEN 0 AND 31535999999999"


def _is_no_value(column: str) -> str:
    return f"lower(trim({column})) IN ({NO_VALUES})"


ITEM_ODDITIES = {
    "future_time": ("updated_at > getvariable('today') + 86400000000 * 2", "item_id"),
    "time_of_1970": (f"updated_at {_IN_1970}", "item_id"),
    "id_of_a_spreadsheet": (r"regexp_full_match(item_id, '\d([.,]\d+)?[eE]\+?\d+')", "item_id"),
    "id_with_a_fraction": (r"regexp_full_match(item_id, '\d+\.\d+')", "item_id"),
    "markup": (f"regexp_matches(title, '{MARKUP}')", "title"),
    "mojibake": (f"regexp_matches(title, '{MOJIBAKE}')", "title"),
    "hidden": (
        r"regexp_matches(delivered_title, '[\x01-\x08\x0B\x0C\x0E-\x1F\x7F\x{202A}-\x{202E}\x{2066}-\x{2069}]')",
        "item_id",
    ),
    "separator": (r"NOT contains(category, '>') AND regexp_matches(category, '\S ?[/|\\] ?\S')", "category"),
    **{f"no_value_{c}": (_is_no_value(c), c) for c in ("title", "category", "brand")},
}
"""Name → the condition of a row of `judged_items`, and the column that is shown."""
EVENT_ODDITIES = {
    "time_of_1970": (f"event_time {_IN_1970}", "request_id"),
    "spaces": (
        f"regexp_matches(item_id, '{_SPACES}') AND trim(item_id) IN (SELECT item_id FROM usable_items)",
        "item_id",
    ),
    "encoded_query": (r"regexp_matches(query, '%2[0-9A-Fa-f]|%[CDEcde][0-9A-Fa-f]%[89ABab][0-9A-Fa-f]')", "query"),
    "markup_query": (f"regexp_matches(regexp_replace(query, '{MASKS}', '', 'g'), '{MARKUP}')", "query"),
    "mojibake_query": (f"regexp_matches(query, '{MOJIBAKE}')", "query"),
    **{f"no_value_{c}": (_is_no_value(c), c) for c in ("request_id", "session_id", "user_id", "query")},
}
"""Name → the condition of a row of `checked_events`, and the column that is shown."""
ODD_REQUESTS = """
SELECT 'several_queries', count(*), arg_min(request_id, first_number), min(first_number)
FROM (
  SELECT request_id, min(number) AS first_number FROM checked_events WHERE broken_rule IS NULL
  GROUP BY request_id HAVING lower(trim(min(query))) <> lower(trim(max(query)))
)
"""


def odd_values(oddities: dict[str, tuple[str, str]], table: str, where: str) -> str:
    """SQL: name, rows, an example, the number of its row; in one look at a table."""
    names = list(oddities)
    counts = ", ".join(
        f"count(number) FILTER ({condition}) AS n{n}, arg_min({shown}, number) FILTER ({condition}) AS e{n}, "
        f"min(number) FILTER ({condition}) AS f{n}"
        for n, (condition, shown) in enumerate(oddities.values())
    )
    parts = " UNION ALL ".join(f"SELECT '{name}', n{n}, e{n}, f{n} FROM looked" for n, name in enumerate(names))
    return f"WITH looked AS MATERIALIZED (SELECT {counts} FROM {table} WHERE {where}) {parts}"


def odd_items(items: int) -> str:
    """SQL of the same form: what is odd of items beside one another.

    Args:
        items: usable ones.
    """
    alike = max(20, items // 100)
    return f"""
SELECT 'spaces', count(*), arg_min(j.item_id, j.number), min(j.number)
FROM judged_items AS j JOIN usable_items AS i ON i.item_id = trim(j.item_id)
WHERE broken_rule IS NULL AND j.item_id <> trim(j.item_id)
UNION ALL
SELECT 'one_title', coalesce(max(alike), 0), arg_max(title, alike), NULL
FROM (SELECT min(title) AS title, count(*) AS alike FROM usable_items GROUP BY lower(title) HAVING count(*) > {alike})
UNION ALL
SELECT 'bad_price', count(*), arg_min(item_id || ': ' || offer.price, number), min(number)
FROM usable_items WHERE offer.price NOT BETWEEN 0 AND {HIGHEST_PRICE}
UNION ALL
SELECT 'bad_currency', count(*), arg_min(item_id || ': ' || left(offer.currency, 40), number), min(number)
FROM usable_items WHERE offer.currency <> '' AND NOT {_IS_CURRENCY}
UNION ALL
(
  WITH priced AS (
    SELECT item_id, number, CASE WHEN {_IS_CURRENCY} THEN offer.currency END AS currency
    FROM usable_items WHERE offer.price BETWEEN 0 AND {HIGHEST_PRICE}
  ), commonest AS (SELECT currency FROM priced WHERE currency IS NOT NULL GROUP BY currency ORDER BY count(*) DESC, currency LIMIT 1)
  SELECT 'several_currencies', count(*), arg_min(item_id || ': ' || currency, number), min(number)
  FROM priced WHERE currency <> (SELECT currency FROM commonest)
  UNION ALL
  SELECT 'no_currency', count(*), arg_min(item_id, number), min(number)
  FROM priced WHERE currency IS NULL AND EXISTS (FROM commonest)
)
"""
