"""How a simulated shopper words what she wants: which true attributes, in which words, order and spelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from smar_model.shop.vocabulary import Forms, typed_forms

NAMES_TYPE = 0.95
"""Share of queries that name the type, where nothing else names the product."""
NAMES_COLOUR = 0.65
"""Share of queries in visual departments that name the colour."""
FURTHER_LOOKS = {0: 0.05, 1: 0.55, 2: 0.40}
"""Share of queries in visual departments by number of further attributes."""
LOOKS = {"brand": 0.12, "gender": 0.35, "pattern": 0.30, "usage": 0.20, "season": 0.15}
"""Weights of the further attributes in visual departments, among those that the item has."""
PLAIN_VALUES = {"casual": 0.2, "plain": 0.3, "unisex": 0.3}
"""Factor of the weight of values that few shoppers find worth a word."""
NAMES_PROPER_NAME = 0.75
"""Share of queries elsewhere that give the product's name, where it has one; half of them then name no type."""
FURTHER_FACTS = {0: 0.15, 1: 0.55, 2: 0.30}
FACTS = {"brand": 0.5, "topic": 0.4, "flavour": 0.5, "feature": 0.5, "gender": 0.15}
"""The same in the other departments."""
USUAL_WORD = 0.6
"""Share of the first form of a value in the vocabulary; the others share the rest."""
USUAL_ORDER = 0.6
"""Share of queries in the order people mostly write; the others come in any."""
MISSPELLED = 0.05

_ORDER = ("brand", "gender", "usage", "season", "pattern", "colour", "topic", "flavour", "name", "feature", "type")


def word_query(
    truth: Mapping[str, str], *, visual: bool, random: Random, forms: Forms = typed_forms
) -> tuple[str, dict[str, str]]:
    """A query for an item of these true attributes, and which of them it names, by their true values (1 to 4)."""
    named = choose_attributes(truth, visual=visual, random=random)
    names = [a for a in _ORDER if a in named] + sorted(set(named) - set(_ORDER))
    if random.random() > USUAL_ORDER:
        random.shuffle(names)
    front: list[str] = []
    back: list[str] = []
    for name in names:
        words = _choose_form(forms(name, truth[name]), random)
        (back if words.startswith("for ") else front).append(words)
    # Words once each: "sports sports shoes" is one "sports", "arla milk milk" one "milk".
    typed = list(dict.fromkeys(word for phrase in front + back for word in phrase.split()))
    if random.random() < MISSPELLED:
        longest = max(range(len(typed)), key=lambda n: (len(typed[n]), random.random()))
        typed[longest] = misspell(typed[longest], random)
    return " ".join(typed), {name: truth[name] for name in names}


def choose_attributes(truth: Mapping[str, str], *, visual: bool, random: Random) -> list[str]:
    """Names of 1 to 4 attributes that the item has."""
    named = []
    has_name = not visual and "name" in truth and random.random() < NAMES_PROPER_NAME
    if has_name:
        named.append("name")
    if "type" in truth and random.random() < (0.5 if has_name else NAMES_TYPE):
        named.append("type")
    if visual and "colour" in truth and random.random() < NAMES_COLOUR:
        named.append("colour")
    weights = {a: w * PLAIN_VALUES.get(truth[a], 1) for a, w in (LOOKS if visual else FACTS).items() if a in truth}
    shares = FURTHER_LOOKS if visual else FURTHER_FACTS
    wanted = max(random.choices(tuple(shares), tuple(shares.values()))[0], 1 - len(named))
    for _ in range(min(wanted, len(weights))):
        choice = random.choices(tuple(weights), tuple(weights.values()))[0]
        named.append(choice)
        del weights[choice]
    return named or [min(truth)]


def _choose_form(forms: Sequence[str], random: Random) -> str:
    if len(forms) == 1 or random.random() < USUAL_WORD:
        return forms[0]
    return random.choice(forms[1:])


def misspell(word: str, random: Random) -> str:
    """One slip of the keyboard inside a word: two letters swapped, one left out, or one doubled."""
    if len(word) < 4:
        return word
    at = random.randrange(1, len(word) - 1)
    slip = random.randrange(3)
    if slip == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if slip == 1:
        return word[:at] + word[at + 1 :]
    return word[: at + 1] + word[at:]
