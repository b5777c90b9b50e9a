from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smar_model.errors import InputError
from smar_model.lake.contracts import load_contract
from smar_model.settings import Simulation
from smar_model.shop.catalogue import read_truth, write_catalogue
from smar_model.shop.faults import BOT_REQUESTS, add_log_faults
from smar_model.shop.log_files import files_not_served, simulated_log
from smar_model.shop.masking import mask_products
from smar_model.shop.sample_shop import draw_sample_shop
from smar_model.shop.shoppers import LIST_LENGTH, POLICIES, Shoppers
from smar_model.shop.vocabulary import typed_forms
from smar_model.shop.wording import misspell, word_query

DAY = date(2026, 11, 19)
VISUAL = ["Clothing", "Shoes"]
SIMULATION = Simulation(seed=5, items=400, requests_per_day=3_000, masked={"colour": 0.6})


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shop")
    catalogue = draw_sample_shop(SIMULATION)
    mask_products(catalogue.products, SIMULATION.masked, seed=5)
    write_catalogue(root, catalogue)
    Shoppers.load(root, simulation=SIMULATION, visual_departments=VISUAL).write_day(root, DAY)
    return root


def day_files(root: Path, day: date = DAY) -> tuple[Path, Path]:
    return (
        root / "truth" / "requests" / f"dt={day}" / "part-0.parquet",
        root / "click_log" / f"dt={day}" / "part-0.parquet",
    )


@pytest.fixture(scope="module")
def requests(shop) -> pd.DataFrame:
    table = pq.read_table(day_files(shop)[0]).to_pandas()
    table["named"] = [dict(n) for n in table["named"]]
    return table


@pytest.fixture(scope="module")
def events(shop) -> pd.DataFrame:
    return pq.read_table(day_files(shop)[1]).to_pandas()


@pytest.fixture(scope="module")
def truth(shop) -> dict[str, dict[str, str]]:
    return read_truth([shop / "truth" / "items.parquet"])


def simulate(root: Path, simulation: Simulation, day: date = DAY) -> tuple[pa.Table, pa.Table]:
    return Shoppers.load(root, simulation=simulation, visual_departments=VISUAL).simulate_day(day)


def assert_conforms(events: pd.DataFrame, day: date) -> None:
    contract = load_contract("click_log")
    allowed = next(c.allowed for c in contract.columns if c.name == "event")
    assert not events.isna().any().any()
    assert events["event"].isin(allowed).all()
    assert (events["event_time"].dt.date == day).all()
    assert events["position"].between(1, LIST_LENGTH).all()
    assert (events["query"].str.strip() != "").all()
    assert not events.duplicated().any()


def test_files_agree_with_the_contracts(shop, events):
    truth_file, log_file = day_files(shop)
    load_contract("truth_requests").verify_files([truth_file])
    load_contract("click_log").verify_files([log_file])
    assert_conforms(events, DAY)
    assert events["event_time"].is_monotonic_increasing


def test_truth_rows_match_the_log(requests, events):
    assert len(requests) == SIMULATION.requests_per_day
    assert requests["request_id"].is_unique
    logged = events.groupby("request_id").agg(query=("query", "first"), queries=("query", "nunique"))
    assert (logged["queries"] == 1).all()
    assert logged["query"].to_dict() == dict(zip(requests["request_id"], requests["query"], strict=True))
    visits = events.groupby("session_id")["user_id"].nunique()
    assert (visits == 1).all()


def test_named_attributes_are_true_of_the_item_in_mind(requests, truth):
    for item, named in zip(requests["item_id"], requests["named"], strict=True):
        assert 1 <= len(named) <= 4
        assert named.items() <= truth[item].items()


def test_most_queries_are_the_words_of_what_they_name(requests):
    def is_worded(query: str, named: dict[str, str]) -> bool:
        words = set(query.split())
        return all(any(set(f.split()) <= words for f in typed_forms(a, v)) for a, v in named.items())

    share = np.mean([is_worded(q, n) for q, n in zip(requests["query"], requests["named"], strict=True)])
    assert 0.92 < share < 0.98, "all but the misspelled 5 %"


def test_every_request_shows_one_list(events):
    shown = events[events["event"] == "impression"].groupby("request_id")
    assert (shown["position"].apply(lambda p: sorted(p) == list(range(1, LIST_LENGTH + 1)))).all()
    assert (shown["item_id"].nunique() == LIST_LENGTH).all()


def test_events_follow_from_one_another(events):
    place = ["request_id", "item_id", "position"]
    times = events.pivot_table(index=place, columns="event", values="event_time", aggfunc="min")
    for earlier, later in (("impression", "click"), ("click", "cart"), ("cart", "order")):
        happened = times[times[later].notna()]
        assert len(happened) > 50
        assert (happened[earlier] < happened[later]).all()


def test_clicks_fall_with_the_position_whatever_was_shown_there(requests, events):
    rate = events.assign(clicked=events["event"] == "click").groupby("position")
    rate = rate["clicked"].sum() / events[events["event"] == "impression"].groupby("position").size()
    assert rate[1] > rate[4] > rate[12]
    # Lists in random order show the effect of the place alone.
    relevant = requests.loc[requests["policy"] == "relevant", "request_id"]
    clicks = events[(events["event"] == "click") & events["request_id"].isin(relevant)].groupby("position").size()
    assert clicks[1] > 2 * clicks[8]


def test_the_item_in_mind_is_clicked_most_then_those_that_match(requests, events, truth):
    shown = events[events["event"] == "impression"].merge(requests, on="request_id", suffixes=("", "_wanted"))
    clicked = set(events.loc[events["event"] == "click", ["request_id", "item_id"]].itertuples(index=False, name=None))
    shown["clicked"] = [pair in clicked for pair in zip(shown["request_id"], shown["item_id"], strict=True)]
    wanted = shown["item_id"] == shown["item_id_wanted"]
    matches = np.array([n.items() <= truth[i].items() for n, i in zip(shown["named"], shown["item_id"], strict=True)])
    rates = [shown.loc[m, "clicked"].mean() for m in (wanted, matches & ~wanted, ~matches)]
    assert rates[0] > 2 * rates[1] > 4 * rates[2] > 0


def test_policies_are_shown_in_the_stated_shares_and_do_what_they_say(requests, events, truth):
    shares = requests["policy"].value_counts(normalize=True)
    assert {p: pytest.approx(share, abs=0.03) for p, share in POLICIES.items()} == shares.to_dict()
    shown = events[events["event"] == "impression"].merge(requests, on="request_id", suffixes=("", "_wanted"))
    shown["wanted"] = shown["item_id"] == shown["item_id_wanted"]
    present = shown.groupby(["policy", "request_id"])["wanted"].any().groupby("policy").mean()
    assert present["relevant"] == pytest.approx(0.8, abs=0.05)
    assert present["relevant"] > present["title"] > present["random"]
    sold = shown[shown["policy"] == "popularity"]["item_id"].nunique()
    assert sold < shown[shown["policy"] == "random"]["item_id"].nunique()


def test_title_lists_rank_by_what_the_seller_wrote(shop, requests, events):
    items = pq.read_table(shop / "items.parquet").to_pylist()
    says_red = {i["item_id"]: bool(re.search(r"\bred\b", f"{i['title']} {i['attributes']}".lower())) for i in items}
    asked_for_red = requests[["red" in query.split() for query in requests["query"]]]
    shown = events[(events["event"] == "impression") & (events["position"] <= 3)].merge(asked_for_red, on="request_id")
    rate = shown.groupby("policy")["item_id_x"].apply(lambda ids: np.mean([says_red[i] for i in ids]))
    assert rate["title"] > 2 * rate["random"]
    assert rate["title"] > 1.2 * rate["relevant"], "what is masked is masked for the ranker too"


def test_colour_is_named_in_two_thirds_of_the_visual_requests_only(requests, truth):
    visual = np.array(["colour" in truth[i] for i in requests["item_id"]])
    names_colour = np.array(["colour" in n for n in requests["named"]])
    assert names_colour[visual].mean() == pytest.approx(0.65, abs=0.04)
    assert not names_colour[~visual].any()


def test_popular_items_come_back_and_users_are_skewed(shop, requests, events):
    wanted = requests["item_id"].value_counts()
    assert wanted.iloc[0] > 4 * len(requests) / SIMULATION.items
    visits = events.groupby("user_id")["request_id"].nunique()
    assert visits.max() > 4 * visits.median()
    assert visits.max() < 150, "no shopper may look like a bot"
    _, other_day = simulate(shop, SIMULATION, date(2026, 11, 20))
    assert set(other_day["user_id"].to_pylist()) & set(events["user_id"]), "the same people come again"


def test_a_day_depends_on_seed_and_date_alone(shop, tmp_path):
    first = [f.read_bytes() for f in day_files(shop)]
    # Other days before it, and the same day over again, change nothing.
    shoppers = Shoppers.load(shop, simulation=SIMULATION, visual_departments=VISUAL)
    shoppers.simulate_day(date(2026, 11, 18))
    shoppers.write_day(shop, DAY)
    assert [f.read_bytes() for f in day_files(shop)] == first
    for simulation, day in ((SIMULATION.model_copy(update={"seed": 6}), DAY), (SIMULATION, date(2026, 11, 20))):
        queries = simulate(shop, simulation, day)[0]["query"].to_pylist()
        assert queries != pq.read_table(day_files(shop)[0])["query"].to_pylist()


def test_faults_are_planted_beside_what_truly_happened(shop):
    good_requests, good = simulate(shop, SIMULATION)
    faulty_requests, faulty = simulate(shop, SIMULATION.model_copy(update={"faults": 0.03}))
    assert faulty_requests.equals(good_requests)
    good, faulty = good.to_pandas(), faulty.to_pandas()
    assert len(faulty) == pytest.approx(1.03 * len(good), rel=0.001)

    bots = faulty[faulty["user_id"].str.startswith("bot", na=False)]
    assert (bots.groupby("user_id")["request_id"].nunique() == BOT_REQUESTS).all()
    assert_conforms(bots, DAY)
    order = list(good.columns)
    both = pd.concat([good, good, faulty]).groupby(order, dropna=False).size()
    assert (both >= 3).sum() == len(good), "every good event is there still"
    again = simulate(shop, SIMULATION.model_copy(update={"faults": 0.03}))[1].to_pandas()
    pd.testing.assert_frame_equal(again, faulty)


def test_every_fault_has_its_name_and_a_small_share_has_room_for_some(shop):
    good = simulate(shop, SIMULATION)[1].to_pandas()
    good["event_time"] = good["event_time"].astype("int64")
    for share, least in ((0.0, 0), (0.001, 5), (0.05, 15)):
        planted = add_log_faults(good, share=share, day=DAY, rng=np.random.default_rng(0))
        faults = planted["fault"].value_counts()
        assert len(faults) >= least
        assert faults.sum() == round(share * len(good))
        pd.testing.assert_frame_equal(planted.iloc[: len(good)].drop(columns="fault"), good, check_dtype=False)


def test_tiny_catalogue_and_single_request(tmp_path):
    simulation = Simulation(seed=1, items=5, requests_per_day=1)
    write_catalogue(tmp_path, draw_sample_shop(simulation))
    requests, events = simulate(tmp_path, simulation)
    assert requests.num_rows == 1
    assert sorted(e["position"] for e in events.to_pylist() if e["event"] == "impression") == [1, 2, 3, 4, 5]


def test_log_from_elsewhere_is_not_overwritten(shop, tmp_path):
    day = date(2026, 1, 1)
    delivered = shop / "click_log" / f"dt={day}" / "delivered.parquet"
    delivered.parent.mkdir(parents=True)
    delivered.write_bytes(b"somebody's log")
    with pytest.raises(InputError, match=f"dt={day}: this day's log was not written by simulated shoppers"):
        Shoppers.load(shop, simulation=SIMULATION, visual_departments=VISUAL).write_day(shop, day)
    assert delivered.read_bytes() == b"somebody's log"


def test_what_was_served_stays_beside_the_day_of_simulated_shoppers(shop, tmp_path):
    day = date(2026, 1, 2)
    served = shop / "click_log" / f"dt={day}" / "smar-101500-0a1b2c3d.jsonl"
    served.parent.mkdir(parents=True)
    served.write_text("{}\n")
    shoppers = Shoppers.load(shop, simulation=SIMULATION, visual_departments=VISUAL)
    assert not files_not_served(served.parent), "the shoppers' own day is still to come"
    for _ in range(2):
        counts = shoppers.write_day(shop, day)
        assert pq.read_metadata(simulated_log(shop, day)).num_rows == counts["events"]
        assert served.read_text() == "{}\n"
        assert sorted(f.name for f in served.parent.iterdir()) == ["part-0.parquet", served.name]


def test_catalogue_without_truth_is_refused(tmp_path):
    write_catalogue(tmp_path, draw_sample_shop(Simulation(items=5)))
    (tmp_path / "truth" / "items.parquet").unlink()
    with pytest.raises(InputError, match="no true attributes"):
        Shoppers.load(tmp_path, simulation=SIMULATION, visual_departments=VISUAL).write_day(tmp_path, DAY)


def test_departments_that_are_not_visual_go_by_name():
    random = Random(0)
    lipstick = {"type": "lipstick", "name": "true wear", "brand": "lakme", "colour": "red", "gender": "women"}
    named = [word_query(lipstick, visual=False, random=random)[1] for _ in range(400)]
    assert np.mean(["name" in n for n in named]) == pytest.approx(0.75, abs=0.07)
    assert not any("colour" in n for n in named)


@pytest.mark.parametrize("word", ["tee", "shirt", "sunglasses"])
def test_misspelling_is_one_slip(word):
    slips = {misspell(word, Random(seed)) for seed in range(50)}
    assert all(abs(len(slip) - len(word)) <= 1 and slip[0] == word[0] for slip in slips)
    assert slips == {word} if len(word) < 4 else len(slips - {word}) > 3
