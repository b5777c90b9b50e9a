"""`smar shop adopt`: a checked shop's figures → its settings file, with a comment on each line that says why.

Sizes lie between those of the two files that ship and were measured (`configs/sample_shop.yaml`: 1,500 items;
`configs/real_products.yaml`: 6,000, about ten minutes on two cores) and do not grow beyond the latter: the first evening is short.
Margins of the gate follow from the number of queries it is judged on (`docs/gate.md`).
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from smar_model.delivery.check_records import ShopCheck
from smar_model.delivery.delivery_figures import Department
from smar_model.errors import InputError
from smar_model.lake.encoder_store import find_encoder, how_to_add
from smar_model.settings import SCHEMES, Checks, Evaluation, Gate, Settings, home, load_settings

BASE = "configs/real_products.yaml"
LONGEST_WINDOW = 60
"""Days that SMAR's paper trains on."""
WANTED_QUERIES = 1_500
"""On the evaluation days: with fewer a margin of the gate is wider than 2.6 points."""
MOST_EVALUATION_DAYS = 7
ERROR_AT_10_000 = 0.0031
"""Standard error of the difference of two equal models over 10,000 queries (docs/gate.md)."""
EQUALS_PASS = 2 * 1.645
"""Standard errors of a margin that lets 95 of 100 equal models pass."""
WIDEST_MARGIN = 0.2
UNREAD_SHARE = 0.05
"""Of the queries, in a script that the text encoder does not know: from there on it is said."""
SMALL_LOG = 1_000_000
"""Events up to which Spark's jobs end before the JVM's second compiler pays."""
_CHOSEN_BY_LOOKS = re.compile(
    r"apparel|cloth|fashion|wear|shoe|dress|accessor|bag|jewel|watch|furnitur|decor|textil|kleid|schuh|mode|mobel|möbel|"
    r"schmuck|vêtement|chaussure|meuble|ropa|calzado|mueble|服|鞋|包|饰|家具",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")


@dataclass(frozen=True, slots=True)
class Line:
    """A setting, its value as YAML has it, and why."""

    setting: str
    why: str

    def __str__(self) -> str:
        return f"{self.setting}  # {self.why}" if self.why else self.setting


def adopt(check: ShopCheck, *, name: str, folder: str, configs: Path) -> Path:
    """Write `<configs>/<name>.yaml`; returns it.

    Args:
        folder: the shop's.

    Raises:
        InputError: the shop has faults, or another file is there under this name.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"--name {name!r}: letters, digits, _ and - make the name of a settings file and of a model")
    if check.faults:
        faults = "\n".join(f"  {fault}" for fault in check.faults)
        raise InputError(
            f"{check.root}: not adopted, {len(check.faults)} {'fault' if len(check.faults) == 1 else 'faults'} to mend first:\n{faults}"
        )
    text = describe_settings(check, name=name, folder=folder)
    path = configs / f"{name}.yaml"
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise InputError(f"{path}: is there with other content; remove it, or choose another --name")
        return path
    configs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=configs, prefix=".adopt-") as beside:
        draft = Path(beside) / path.name
        draft.write_text(text, encoding="utf-8")
        load_settings(draft)
        os.replace(draft, path)
    return path


def warn_of_scripts(check: ShopCheck, settings: Settings) -> str | None:
    """What to say where many queries are written in a script that the text encoder which settings name does not know; None: nothing."""
    name = settings.network.text.pretrained
    if name is None:
        return None
    encoder = find_encoder(name)
    if encoder is None:
        return f"network.text.pretrained: no encoder {name!r} has been added here; run {how_to_add(name)} before the first run"
    known = encoder.record["scripts"]
    least = max(1, UNREAD_SHARE * check.clicked_queries)
    unread = {script: n for script, n in check.query_scripts.items() if script not in known and n >= least}
    if not unread:
        return None
    counts = ", ".join(f"{n:,} of {check.clicked_queries:,} in {script}" for script, n in unread.items())
    return (
        f"queries are written in a script that encoder {name!r} does not know (it knows {', '.join(known) or 'none'}): {counts}; name an "
        "encoder of these languages in network.text.pretrained, or `null` there, which trains a tokenizer of the shop's own (docs/encoders.md)"
    )


def describe_settings(check: ShopCheck, *, name: str, folder: str) -> str:
    """The settings file's text."""
    assert check.items and check.days
    first = f"# {check.items.items:,} items and {sum(day.rows for day in check.days):,} events, {check.days[0].day} to {check.days[-1].day}, as `smar shop check` found them."
    days, held_out = _window(check)
    sections = [
        [Line(first, "")],
        [
            Line(
                f"base: {BASE}",
                "what is not said here is as there: learning rates and losses that were tuned on real products",
            )
        ],
        _shop(check, folder),
        _window_lines(check, days, held_out),
        _spark(check),
        _checks(check, days, held_out),
        _gate(check, held_out),
        _training(check, days, held_out),
        [Line(f"release: {{model: {json.dumps(name)}}}", "a name of its own in the registry")],
    ]
    return "\n".join(str(line) for section in sections for line in section) + "\n"


def _shop(check: ShopCheck, folder: str) -> list[Line]:
    if folder.startswith(SCHEMES):
        shown, where = folder.rstrip("/"), "in an object store, whose keys and address are in the environment"
    elif (root := Path(folder).resolve()).is_relative_to(home()):
        shown, where = str(root.relative_to(home())), "below the home folder (var/, or SMAR_HOME)"
    else:
        shown, where = str(root), "outside the home folder, so as an absolute path"
    departments, why = _visual_departments(check)
    return [
        Line("shop:", "where the shop lies, and in which of its departments pictures matter"),
        Line(f"  root: {json.dumps(shown, ensure_ascii=False)}", where),
        Line("  kind: own", "read as it was delivered, never written"),
        Line(f"  visual_departments: {json.dumps(departments, ensure_ascii=False)}", why),
        Line("  simulation: null", "its shoppers are real"),
    ]


def _visual_departments(check: ShopCheck) -> tuple[list[str], str]:
    assert check.items
    with_pictures = [d for d in check.items.departments if d.items and d.with_pictures >= d.items / 2]
    by_looks = [d for d in with_pictures if _CHOSEN_BY_LOOKS.search(d.name)]
    if by_looks:
        why = "named like things that people choose by looks, and half their items or more have a picture"
        return [d.name for d in by_looks], f"{why} ({_shares(by_looks)}); go over it"
    if with_pictures:
        why = "half their items or more have a picture; no name says more"
        return [
            d.name for d in with_pictures
        ], f"{why} ({_shares(with_pictures)}); leave in those that people choose by looks"
    largest = check.items.departments[0]
    return [
        largest.name
    ], "the largest: no department has pictures of half its items; name those that people choose by looks"


def _shares(departments: list[Department]) -> str:
    return ", ".join(f"{_plain(d.name)} {d.with_pictures / d.items:.0%}" for d in departments[:6])


def _plain(name: str) -> str:
    return " ".join(name[:40].split())


def _window(check: ShopCheck) -> tuple[int, int]:
    """Days of the window, and how many of the last are held out."""
    days, known = 0, {day.day for day in check.days if day.clicks}
    for day in reversed(check.window):
        if day not in known or days == LONGEST_WINDOW:
            break
        days += 1
    enough = Checks().minimum_trainable_items * (check.items.items if check.items else 0)
    held_out = 1
    for count in range(1, min(MOST_EVALUATION_DAYS, days // 4, len(check.queries_by_last_days)) + 1):
        if count > 1 and check.items_by_last_days[count - 1] < enough:
            break
        held_out = count
        if check.queries_by_last_days[count - 1] >= WANTED_QUERIES:
            break
    if days <= held_out:
        raise InputError(
            f"{check.root / 'click_log'}: {days} day(s) in a row with clicks up to {check.days[-1].day}; a run wants two at least, "
            "one to train on and one to be judged on: deliver more days"
        )
    return days, held_out


def _window_lines(check: ShopCheck, days: int, held_out: int) -> list[Line]:
    queries = check.queries_by_last_days[held_out - 1]
    return [
        Line("window:", "which days a run reads"),
        Line(
            f"  days: {days}", f"all days in a row with clicks, {LONGEST_WINDOW} at most; each later run wants as many"
        ),
        Line(
            f"  evaluation_days: {held_out}",
            f"the last {'one is' if held_out == 1 else f'{held_out} are'} held out to judge the model: {queries:,} queries with clicks",
        ),
    ]


def _spark(check: ShopCheck) -> list[Line]:
    if sum(day.rows for day in check.days) > SMALL_LOG:
        return []
    options = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC"
    return [
        Line(
            f'spark: {{options: {{spark.driver.extraJavaOptions: "{options}"}}}}',
            f"tables of under {SMALL_LOG:,} events end before the JVM's second compiler pays; leave it out for more",
        )
    ]


def _training_clicks(check: ShopCheck, days: int, held_out: int) -> int:
    training = check.window[-days:-held_out]
    return sum(day.clicks for day in check.days if day.day in training)


def _checks(check: ShopCheck, days: int, held_out: int) -> list[Line]:
    clicks = _training_clicks(check, days, held_out)
    least = max(Checks().minimum_training_clicks, _rounded(clicks / 2))
    return [
        Line("checks:", "what ends a run before training"),
        Line(
            f"  minimum_training_clicks: {least}",
            f"half of the {clicks:,} that the training days have: a log that lost more is no log",
        ),
    ]


def _gate(check: ShopCheck, held_out: int) -> list[Line]:
    queries = max(1, min(check.queries_by_last_days[held_out - 1], Evaluation().maximum_queries))
    error = ERROR_AT_10_000 * math.sqrt(10_000 / queries)
    champion = min(WIDEST_MARGIN, max(Gate().champion_margin, _up(EQUALS_PASS * error)))
    anchor = min(WIDEST_MARGIN, champion + 0.005)
    guarded = max(0.005, round(champion / 2, 4))
    segments = ", ".join(f"{segment}: {guarded:g}" for segment in Gate().guarded_segments)
    least = min(Gate().minimum_queries, max(1, queries // 2))
    return [
        Line("gate:", "what a new model must show; docs/gate.md, 'Margins and the number of queries'"),
        Line(f"  minimum_queries: {least}", f"{queries:,} are judged; below half of them a day's figures say little"),
        Line(
            f"  champion_margin: {champion:g}",
            f"over {queries:,} queries two equal models differ by a standard error of {100 * error:.2f} points; 95 of 100 pass this",
        ),
        Line(f"  anchor_margin: {anchor:g}", "a little wider, as the anchors are older"),
        Line(f"  guarded_segments: {{{segments}}}", "half the champion's: a loss there has to be shown"),
    ]


def _training(check: ShopCheck, days: int, held_out: int) -> list[Line]:
    assert check.items
    items, clicks = check.items.items, _training_clicks(check, days, held_out)
    pictures = check.items.with_pictures
    pretrain = _between(1_000, 2_400, items, 1_500, 6_000)
    finetune = _between(600, 2_000, clicks, 7_500, 42_000)
    adapt = _between(200, 400, pictures, 1_500, 6_000) if pictures else 10
    return [
        Line(
            "training:",
            "steps for about ten minutes on two cores; more of each for a better model, once the first has come out",
        ),
        Line(f"  adapt_vision: {{steps: {adapt}}}", f"{pictures:,} items have pictures to learn from"),
        Line(
            f"  pretrain: {{steps: {pretrain}}}",
            f"between the 1,000 of the sample shop's 1,500 items and the 2,400 of 6,000, for {items:,}",
        ),
        Line(
            f"  finetune: {{steps: {finetune}}}", f"likewise between 600 and 2,000, for {clicks:,} clicks to train on"
        ),
    ]


def _between(least: int, most: int, size: int, small: int, large: int) -> int:
    """Steps for a size: straight between those for the small and the large one, and never outside."""
    share = min(1.0, max(0.0, (size - small) / (large - small)))
    return int(round((least + share * (most - least)) / 50) * 50)


def _rounded(number: float) -> int:
    """With two digits that count."""
    if number < 10:
        return int(number)
    unit = 10 ** (int(math.log10(number)) - 1)
    return int(number // unit * unit)


def _up(share: float) -> float:
    return math.ceil(share * 200 - 1e-9) / 200
