"""The page docs/held_back_words.md: `python -m tests.shop.held_back_list > docs/held_back_words.md`.

It is committed before a model is trained on shops with such words, so that nobody chooses them by what a model can do.
"""

from __future__ import annotations

from smar_model.settings import REPOSITORY
from smar_model.shop.synonyms import SYNONYMS, own_word, place_of

PAGE = REPOSITORY / "docs" / "held_back_words.md"
SHARE = 0.5
"""Of the shops in configs/."""
HEAD = """# Words held back

With `simulation.held_back_words` simulated shoppers type synonyms that no seller uses (`smar_model/shop/synonyms.py`). A hash of the word,
CRC-32 of `held_back:WORD` as a share of its range, says which of them nobody types before the day `simulation.held_back_from`: those whose
number is below the setting. At {share:g}, the share that comparisons take, these are {held} of {words} words: **bold** below. A synonym of
two words, as in "shower shoes", is held back with the one that is its own.

The list was written before any training, is written by `python -m tests.shop.held_back_list`, and `tests/shop/test_held_back_words.py` holds
it to the code. What sellers did write of it is taken out of titles, categories, attributes and products' own names, so that no text has a word
held back; brands stay. It is one list for the sample shop, the fashion products and the groceries: a shop uses the values that its items have.
"""


def page() -> str:
    lines = [HEAD.format(share=SHARE, held=sum(map(_held, _words())), words=len(_words()))]
    for attribute, values in SYNONYMS.items():
        if attribute == "name":
            continue
        lines += [
            f"\n## {attribute}\n",
            "| true value | held back until the day | typed on all days |",
            "| --- | --- | --- |",
        ]
        for value, forms in sorted(values.items()):
            held, others = (
                ", ".join(
                    f"{_bold(form) if back else form} {place_of(own_word(form)):.2f}"
                    for form in forms
                    if _held(own_word(form)) is back
                )
                for back in (True, False)
            )
            lines.append(f"| {value} | {held} | {others} |")
    return "\n".join(lines) + "\n"


def _words() -> list[str]:
    return sorted({own_word(form) for values in SYNONYMS.values() for forms in values.values() for form in forms})


def _held(word: str) -> bool:
    return place_of(word) < SHARE


def _bold(form: str) -> str:
    return f"**{form}**"


if __name__ == "__main__":
    print(page(), end="")
