"""Interleaved lists of all the run's days, as the table `shown_lists` has them: which of the newest two versions shoppers prefer.

`smar interleaving` reads the log itself, from the experiment's first day on, and is what decides. Both keep the same rules; here a day is
left out that the run does not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from smar_model.evaluation.evaluation_record import Interleaving, Team
from smar_model.evaluation.interleaving import ShopperDays, judge_preference
from smar_model.evaluation.preference import Pair, Preference
from smar_model.lake.contracts import load_contract

TEAMS = ("champion", "challenger")


def judge_interleaved_lists(files: Sequence[Path]) -> Interleaving | None:
    """The newest pair: the one with the last day, of several the one of the higher versions; None where no list counts."""
    if not files:
        return None
    schema = load_contract("shown_lists").arrow_schema()
    table = ds.dataset([str(f) for f in files], schema=schema).to_table(filter=ds.field("shopper").is_valid())
    if not table.num_rows:
        return None
    requests, counts = _outcomes(table)
    found = {
        Pair(int(champion), int(challenger)): rows
        for (champion, challenger), rows in requests.groupby(["champion", "challenger"])
    }
    if not found:
        return None
    pair = max(found, key=lambda pair: (found[pair]["day"].max(), pair))
    rows = found[pair]
    counts |= {"of_other_versions": len(requests) - len(rows)}
    return Interleaving(
        preference=_judge(pair, rows), champion=_team(rows, 0), challenger=_team(rows, 1), counts=counts
    )


def _outcomes(table: pa.Table) -> tuple[pd.DataFrame, dict[str, int]]:
    """A row a request that counts: day, shopper, champion, challenger (versions), shown and clicked of each team; and the others by reason."""
    owner = np.repeat(np.arange(table.num_rows), pa.compute.list_value_length(table["items"]).to_numpy())
    columns = {"item": "items", "team": "teams", "version": "versions", "clicked": "clicks"}
    places = pd.DataFrame({name: pa.compute.list_flatten(table[of]).to_pandas() for name, of in columns.items()})
    places = places.assign(owner=owner, clicked=places["clicked"] > 0)
    places = places.groupby(["owner", "item", "team", "version"], sort=False, as_index=False)["clicked"].any()
    requests = table.select(["day", "shopper"]).to_pandas()
    faults = {
        "a_team_is_neither_champion_nor_challenger": places["owner"][~places["team"].isin(["", *TEAMS])],
        "a_team_has_no_number_of_a_version": places["owner"][
            (places["team"] != "") & ~places["version"].str.fullmatch("[0-9]{1,9}")
        ],
        "an_item_is_of_both_teams": places["owner"][places.duplicated(["owner", "item"])],
    }
    places = places[places["team"].isin(TEAMS)]
    versions = places.groupby(["owner", "team"])["version"].agg(["first", "nunique"])
    faults["a_team_has_several_versions"] = versions[versions["nunique"] > 1].index.get_level_values("owner")
    by_team = versions["first"].unstack().reindex(index=requests.index, columns=list(TEAMS))
    faults["all_items_shown_are_of_one_team"] = by_team.index[by_team.isna().any(axis=1)]
    counts, sound = {"lists": len(requests)}, np.ones(len(requests), dtype=bool)
    for name, faulty in faults.items():
        of_this = sound & requests.index.isin(faulty)
        counts[name], sound = int(of_this.sum()), sound & ~of_this
    for number, team in enumerate(TEAMS):
        of_team = places[places["team"] == team].groupby("owner")["clicked"].agg(["size", "sum"])
        requests[[f"shown_{number}", f"clicked_{number}"]] = of_team.reindex(requests.index, fill_value=0)
    return requests[sound].join(by_team[sound].astype(int)), counts


def _judge(pair: Pair, rows: pd.DataFrame) -> Preference:
    outcomes = rows.assign(
        requests=1, won=rows["clicked_1"] > rows["clicked_0"], lost=rows["clicked_1"] < rows["clicked_0"]
    )
    by_shopper = outcomes.groupby(["day", "shopper"], as_index=False)[["requests", "won", "lost"]].sum()
    return judge_preference(
        pair,
        ShopperDays(
            days=by_shopper["day"].tolist(),
            shoppers=by_shopper["shopper"].to_numpy(),
            requests=by_shopper["requests"].to_numpy(),
            won=by_shopper["won"].to_numpy(),
            lost=by_shopper["lost"].to_numpy(),
        ),
    )


def _team(rows: pd.DataFrame, number: int) -> Team:
    return Team(
        shown=int(rows[f"shown_{number}"].sum()),
        clicked=int(rows[f"clicked_{number}"].sum()),
        requests=int((rows[f"clicked_{number}"] > rows[f"clicked_{1 - number}"]).sum()),
    )
