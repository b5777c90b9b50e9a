"""The page of `smar serve` in a real browser (Debian's Chromium): search, compare, filter, hostile input, a phone's width.

SMAR_SCREENSHOTS names a folder that keeps what was seen.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.patience import PATIENCE_SECONDS
from tests.services.served import get, running_server
from tests.serving.serving_shop import ServingShop, serving_shop
from tests.tiny_shop import ITEMS, tiny_items

expect.set_options(timeout=1_000 * PATIENCE_SECONDS)  # on a machine that others use as well
MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> \"'&amp;"
HOSTILE = {
    "markup": MARKUP,
    "other scripts": "红色连衣裙 فستان أحمر लाल पोशाक 👗🏽",
    "right to left": "\u202eshirt red\u202c",
    "one long word": "ш" * 10_000,
    "long": "red shirt " * 999,
    "template": "{{7*7}} ${7*7} %00 \\u0000",
}


def hostile_items() -> list[dict[str, Any]]:
    """The tiny shop's, one of which has markup for its title, one a title without a space, one a picture that is not there."""
    items = tiny_items()
    items[1]["title"] = f"{MARKUP} shirt"
    items[2]["title"] = "W" * 900
    items[3]["images"] = ["never_delivered.jpg"]
    return items


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingShop]:
    with serving_shop(tmp_path_factory, versions=3, refreshed_items=hostile_items()) as shop:
        shop.point_to("1", shop.refreshed["1"])
        broken = shop.home / "broken"
        shutil.copytree(shop.refreshed["3"].folder, broken)
        (broken / "index.faiss").write_bytes(b"cut off")
        shop.registry.client.set_model_version_tag("smar", "3", "index_source", broken.as_uri())
        yield shop


@pytest.fixture(scope="module")
def address(shop: ServingShop) -> Iterator[str]:
    with running_server(shop.settings_file, shop.home / "server.log", poll_seconds=0.5) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page that may not ask anybody but the server, raise an error or run what it was not meant to run."""
    options = {"viewport": {"width": 1_280, "height": 900}} | getattr(request, "param", {})
    with browser.new_context(base_url=address, **options) as context:
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on(
            "request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((address, "data:")) else None
        )
        yield page
        assert page.title() == "SMAR search"
        # A picture or an answer that is not there is told on the console as well; the page has to show it.
        assert [text for text in wrong if "the server responded with a status of" not in text] == []


def keep(page: Page, name: str) -> None:
    if folder := os.environ.get("SMAR_SCREENSHOTS"):
        page.wait_for_load_state("networkidle")
        page.screenshot(path=Path(folder) / f"{name}.png")


def cards(page: Page, column: int = 0) -> list[dict[str, str]]:
    """What each card of a column shows."""
    return (
        page.locator(".column")
        .nth(column)
        .locator("li")
        .evaluate_all(
            """cards => cards.map(card => ({
            rank: card.querySelector(".rank").textContent, title: card.querySelector(".title").textContent,
            item: card.querySelectorAll(".more")[1].textContent, department: card.querySelector(".more span").textContent,
            mark: card.querySelector(".mark")?.textContent ?? "", picture: card.querySelector("img")?.getAttribute("src") ?? "",
            shown: card.querySelector("img") ? String(card.querySelector("img").naturalWidth > 0) : card.querySelector(".picture").innerText,
        }))"""
        )
    )


def search(page: Page, query: str) -> None:
    box = page.get_by_role("searchbox", name="What a shopper would type")
    box.fill(query)
    box.press("Enter")
    expect(page.locator("#said")).to_contain_text(re.compile(" for “"))


def choose(page: Page, side: str, version: str) -> None:
    page.get_by_role("combobox", name=f"Version on the {side}").select_option(version)


def test_a_search_shows_what_the_api_answers(page: Page, address: str) -> None:
    page.goto("/")
    expect(page.locator("#status")).to_contain_text("champion: version 1")
    choose(page, "right", "")
    search(page, "red shirt")
    expect(page.locator("li")).to_have_count(ITEMS)
    answer = get(address, "search?q=red%20shirt&k=24")
    page.wait_for_load_state("networkidle")
    shown = cards(page)
    assert [card["item"] for card in shown] == [hit["item_id"] for hit in answer["hits"]]
    assert [card["title"] for card in shown] == [hit["title"] for hit in answer["hits"]]
    assert [card["rank"] for card in shown] == [str(n) for n in range(1, ITEMS + 1)]
    assert f"P(q) {answer['p']:.2f}" in page.locator(".asked").inner_text()
    # Every fifth item has no picture, and one that was promised was never delivered.
    for card in shown:
        number = int(card["item"].removeprefix("item-"))
        assert ("no picture" in card["shown"]) == (number % 5 == 0 or number == 3), card
        assert card["shown"] == "true" or "no picture" in card["shown"]
    keep(page, "search")


def test_two_versions_are_compared_and_differences_marked(page: Page, address: str) -> None:
    page.goto("/")
    choose(page, "right", "2")
    page.get_by_role("combobox", name="How many items").select_option("12")
    search(page, "blue dress")
    expect(page.locator("li")).to_have_count(24)
    hits = [get(address, f"search?q=blue%20dress&k=12&version={v}")["hits"] for v in ("champion", "2")]
    ranks = [{hit["item_id"]: hit["rank"] for hit in side} for side in hits]
    assert ranks[0].keys() != ranks[1].keys()
    for column in (0, 1):
        for card in cards(page, column):
            here, there = ranks[column][card["item"]], ranks[1 - column].get(card["item"])
            moved = (
                f"▲ {there - here} up"
                if there and there > here
                else f"▼ {here - there} down"
                if there and there < here
                else ""
            )
            assert card["mark"] == (moved if there else "only here")
    both = len(ranks[0].keys() & ranks[1].keys())
    assert "12 and 12 items for “blue dress”" in page.locator("#said").inner_text()
    assert f"{both} in both" in page.locator("#said").inner_text()
    keep(page, "compare")
    choose(page, "right", "text-only")
    expect(page.locator(".column").nth(1)).to_contain_text("index made here")


def test_the_same_version_is_compared_with_other_routing(page: Page, address: str) -> None:
    page.goto("/")
    choose(page, "right", "champion")
    page.get_by_role("combobox", name="Routing on the right").select_option("text")
    search(page, "red dress")
    expect(page.locator(".column").nth(1)).to_contain_text("text alone (p = 0)")
    expect(page.locator(".asked").nth(1)).to_contain_text("text alone was asked for; P(q) would be")
    expect(page.locator(".asked").nth(1).locator("meter")).to_have_count(0)
    expect(page.locator(".column").nth(1).locator("li")).to_have_count(24)
    wanted = get(address, "search?q=red%20dress&k=24&routing=text")["hits"]
    assert [card["item"] for card in cards(page, 1)] == [hit["item_id"] for hit in wanted]


def test_departments_filter_both_columns_and_stay_in_the_address(page: Page) -> None:
    page.goto("/?right=2")
    search(page, "novel")
    page.get_by_role("checkbox", name="Books").check()
    expect(page.locator("#said")).to_contain_text("6 and 6 items")
    assert {card["department"] for column in (0, 1) for card in cards(page, column)} == {"Books"}
    page.get_by_role("checkbox", name="Groceries").check()
    expect(page.locator("#said")).to_contain_text("12 and 12 items")
    page.reload()
    expect(page.locator("#said")).to_contain_text("12 and 12 items")
    expect(page.get_by_role("checkbox", name="Books")).to_be_checked()
    page.go_back()
    expect(page.locator("#said")).to_contain_text("6 and 6 items")
    expect(page.get_by_role("checkbox", name="Groceries")).not_to_be_checked()


def test_filters_are_typed_stay_in_the_address_and_say_what_is_wrong(page: Page, address: str) -> None:
    page.goto("/?right=2")
    search(page, "shirt")
    box = page.get_by_role("textbox", name="Filters:")
    # Only what the shop's items say is offered: they have neither prices nor stock.
    expect(box).to_have_attribute(
        "placeholder", re.compile(r"^attributes[.]colour:[a-z]+; attributes[.]material:[a-z]+; -department:\w+$")
    )
    expect(page.get_by_role("checkbox", name="available only")).to_be_hidden()
    box.fill("attributes.colour:red; -attributes.material:cotton")
    box.press("Enter")
    wanted = get(address, "search?q=shirt&k=24&filter=attributes.colour:red&filter=-attributes.material:cotton")["hits"]
    expect(page.locator("#said")).to_contain_text(f"{len(wanted)} and {len(wanted)} items")
    assert 0 < len(wanted) < ITEMS and [card["item"] for card in cards(page)] == [hit["item_id"] for hit in wanted]
    keep(page, "filters")
    page.reload()
    expect(page.locator("#said")).to_contain_text(f"{len(wanted)} and {len(wanted)} items")
    expect(box).to_have_value("attributes.colour:red; -attributes.material:cotton")
    box.fill("color:red")
    box.press("Enter")
    expect(page.locator("body")).to_contain_text("there is no 'color'; known: attributes.NAME:VALUE")
    keep(page, "filter_refused")
    page.go_back()
    expect(box).to_have_value("attributes.colour:red; -attributes.material:cotton")


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_queries_are_shown_as_text(page: Page, kind: str) -> None:
    page.goto("/")
    search(page, HOSTILE[kind])
    expect(page.locator(".column").first.locator("li")).to_have_count(24)
    said = page.locator("#said").inner_text()
    assert " ".join(HOSTILE[kind].split())[:20] in " ".join(said.split())
    assert len(said) < 200
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert ("q=" in page.url) == (len(HOSTILE[kind]) <= 500)


def test_hostile_addresses_are_shown_as_text(page: Page) -> None:
    page.goto(f"/?q={quote(MARKUP)}&left=%3Cb%3E&right=2&k=9999999&department=%3Cscript%3E&left-routing=x")
    expect(page.locator(".column").first.locator("li")).to_have_count(24)
    assert page.get_by_role("searchbox").input_value() == MARKUP


def test_titles_with_markup_or_without_a_space_are_shown_as_text(page: Page) -> None:
    page.goto("/")
    search(page, "shirt")
    expect(page.locator(".title", has_text=MARKUP).first).to_be_visible()
    assert page.locator(".title img, .title script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_empty_query_asks_nothing(page: Page) -> None:
    page.goto("/")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    for blank in ("", "   \t"):
        page.get_by_role("searchbox").fill(blank)
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.locator("#said")).to_have_text("Type what you look for.")
        expect(page.get_by_role("searchbox")).to_be_focused()
    assert asked == []


def test_everything_can_be_done_by_keyboard(page: Page) -> None:
    page.goto("/")
    expect(page.locator("#examples button").first).to_be_visible()
    page.get_by_role("combobox", name="How many items").focus()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("red/blue shirt")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("“red/blue shirt”")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.value || document.activeElement.textContent"
            )
        )
    assert {"count", "left", "left-routing", "right", "right-routing", "Books"} <= set(reached)
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text(page.locator("#examples button").first.inner_text())


def test_a_version_that_cannot_be_opened_says_why_beside_one_that_answers(page: Page) -> None:
    page.goto("/")
    choose(page, "right", "3")
    search(page, "red shirt")
    expect(page.locator(".failed")).to_contain_text("has no signature")
    expect(page.locator("#said")).to_contain_text("24 items and no answer for “red shirt”")
    expect(page.locator(".column").first.locator("li")).to_have_count(24)


def test_a_promotion_shows_without_a_reload(page: Page, shop: ServingShop) -> None:
    page.goto("/")
    expect(page.locator("#status")).to_contain_text("champion: version 1")
    try:
        shop.promote("2")
        expect(page.locator("#status")).to_contain_text("champion: version 2")
    finally:
        shop.promote("1")
    expect(page.locator("#status")).to_contain_text("champion: version 1")


@pytest.mark.parametrize(
    "page",
    [
        {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme, "has_touch": True}
        for scheme in ("light", "dark")
    ],
    indirect=True,
    ids=["light", "dark"],
)
def test_it_fits_a_phone(page: Page, request: pytest.FixtureRequest) -> None:
    page.goto("/")
    search(page, "red shirt")
    for version in ("", "2"):
        choose(page, "right", version)
        expect(page.locator("li")).to_have_count(48 if version else 24)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.get_by_role("button", name="Search", exact=True).bounding_box()["x"] < 390 - 60  # type: ignore[index]
    keep(page, f"phone-{request.node.callspec.id}")
