"""A shop's exports, made up after their specifications: a Google Merchant feed, a Shopify export and a UBI log that name
the same products, with the drawn pictures of the sample shop and the clicks of its simulated shoppers.

    python -m tests.shop.feed_writer --to FOLDER --items 3000 --events 200000 --days 7 --date 2026-11-19
    python -m tests.shop.feed_writer --example

The second writes `examples/first_evening/` anew. The log names variants (their SKU); both feeds say which product each
belongs to.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image

from smar_model.settings import REPOSITORY, Simulation
from smar_model.shop.catalogue import Catalogue, Product, write_catalogue
from smar_model.shop.masking import mask_products
from smar_model.shop.sample_shop import draw_sample_shop
from smar_model.shop.shoppers import Shoppers

VISUAL = ("Clothing", "Shoes")
SIZES = {"Clothing": ("S", "M", "L", "XL"), "Shoes": ("38", "40", "42")}
CURRENCIES = ("EUR", "GBP", "USD")
PICTURES_AT = "https://pictures.example.com/products/"
EVENTS_A_REQUEST = 13.2
ACTIONS = {"impression": "impression", "click": "click", "cart": "add_to_cart", "order": "purchase"}
_ENDINGS = {"JPEG": ".jpg", "PNG": ".png"}


@dataclass(frozen=True, slots=True)
class Exported:
    """A product with the number that the shop's systems give it."""

    number: str
    product: Product
    sizes: tuple[str, ...]
    currency: str
    price: int

    @property
    def skus(self) -> list[str]:
        return [f"{self.number}-{size}" for size in self.sizes] or [self.number]

    @property
    def handle(self) -> str:
        return f"{re.sub(r'[^a-z0-9]+', '-', self.product.title.lower()).strip('-')}-{self.number}"

    @property
    def description(self) -> str:
        return f"<p>{escape(self.product.title)} &ndash; <b>from our {escape(self.product.department)} range</b></p>"


def draw_products(items: int, seed: int) -> tuple[Catalogue, list[Exported]]:
    """The sample shop's products; titles name a colour and a type more seldom, as sellers' do. Product 2 has no picture."""
    catalogue = draw_sample_shop(Simulation(items=items, seed=seed))
    mask_products(catalogue.products, {"colour": 0.5, "type": 0.1}, seed=seed)
    catalogue.products[2].images = []
    exported = []
    for place, product in enumerate(catalogue.products):
        random = Random(seed * 1_000_003 + place)
        sizes = SIZES.get(product.department, ())
        chosen = tuple(sorted(random.sample(sizes, random.randint(2, len(sizes))), key=sizes.index)) if sizes else ()
        exported.append(
            Exported(str(10_000 + place), product, chosen, random.choice(CURRENCIES), random.randrange(500, 20_000))
        )
    return catalogue, exported


def write_merchant_feed(path: Path, products: Iterable[Exported]) -> None:
    """RSS 2.0, an item a variant."""
    with path.open("w", encoding="utf-8") as file:
        file.write(
            '<?xml version="1.0" encoding="UTF-8"?>\n<rss version="2.0" xmlns:g="http://base.google.com/ns/1.0">\n'
        )
        file.write("<channel>\n<title>First evening</title>\n<link>https://shop.example.com/</link>\n")
        file.write("<description>All products</description>\n")
        for product in products:
            for size, sku in zip(product.sizes or ("",), product.skus, strict=True):
                file.write(f"<item>\n{''.join(_merchant_fields(product, size, sku))}</item>\n")
        file.write("</channel>\n</rss>\n")


def _merchant_fields(exported: Exported, size: str, sku: str) -> Iterator[str]:
    product = exported.product
    fields: list[tuple[str, str]] = [
        ("g:id", sku),
        ("title", f"{product.title} - {size}" if size else product.title),
        ("description", exported.description),
        ("link", f"https://shop.example.com/products/{exported.handle}"),
    ]
    fields += [(("g:image_link" if n == 0 else "g:additional_image_link"), PICTURES_AT + name) for n, name in enumerate(product.images)]  # fmt: skip
    fields += [("g:item_group_id", exported.number)] if size else []
    fields += [("g:brand", product.brand)] if product.brand else []
    fields += [("g:product_type", product.category), ("g:availability", "in_stock")]
    fields += [("g:price", f"{exported.price / 100:.2f} {exported.currency}")]
    attributes = {"color": "colour", "material": "material", "pattern": "pattern", "gender": "gender"}
    fields += [(f"g:{name}", product.attributes[own]) for name, own in attributes.items() if own in product.attributes]
    fields += [("g:size", size)] if size else []
    for name, text in fields:
        yield f"<{name}>{escape(text)}</{name}>\n"


def write_shopify_export(path: Path, products: Iterable[Exported]) -> None:
    """A row a variant, and one more for each further picture; in the columns before 2024."""
    columns = [
        "Handle", "Title", "Body (HTML)", "Vendor", "Product Category", "Type", "Tags", "Published", "Option1 Name",
        "Option1 Value", "Option2 Name", "Option2 Value", "Variant SKU", "Variant Price", "Image Src", "Image Position",
        "Status",
    ]  # fmt: skip
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for exported in products:
            product = exported.product
            rows: list[dict[str, Any]] = [
                {"Variant SKU": sku, "Variant Price": f"{exported.price / 100:.2f}"} for sku in exported.skus
            ]
            colour = product.attributes.get("colour", "")
            for row, size in zip(rows, exported.sizes, strict=False):
                row |= {"Option1 Value": size} | ({"Option2 Value": colour} if colour else {})
            if not exported.sizes:
                rows[0] |= {"Option1 Name": "Title", "Option1 Value": "Default Title"}
            else:
                rows[0] |= {"Option1 Name": "Size"} | ({"Option2 Name": "Color"} if colour else {})
            rows[0] |= {
                "Title": product.title,
                "Body (HTML)": exported.description + "\n<ul><li>Washable</li></ul>",
                "Vendor": product.brand or "",
                "Product Category": product.category,
                "Type": product.category.rpartition(" > ")[2],
                "Tags": "new, autumn",
                "Published": "true",
                "Status": "active",
            }
            for place, name in enumerate(product.images):
                if place == len(rows):
                    rows.append({})
                rows[place] |= {"Image Src": PICTURES_AT + name, "Image Position": place + 1}
            writer.writerows({"Handle": exported.handle, **row} for row in rows)


def write_pictures(folder: Path, catalogue: Catalogue) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in catalogue.pictures.items():
        (folder / name).write_bytes(content)


def write_ubi_log(
    folder: Path,
    catalogue: Catalogue,
    products: Iterable[Exported],
    *,
    days: list[date],
    requests_per_day: int,
    seed: int,
    impressions: bool = True,
    bulk: bool = True,
) -> list[Path]:
    """A file a day, in bulk form or plain; where impressions are no events, the queries list what was found."""
    skus = {exported.product.item_id: exported.skus for exported in products}
    files = []
    with tempfile.TemporaryDirectory() as home:
        write_catalogue(Path(home), catalogue)
        simulation = Simulation(seed=seed, requests_per_day=requests_per_day)
        shoppers = Shoppers.load(Path(home), simulation=simulation, visual_departments=VISUAL)
        for day in days:
            events = shoppers.simulate_day(day)[1].to_pylist()
            files.append(folder / f"ubi-{day}.ndjson")
            with files[-1].open("w", encoding="utf-8") as file:
                for document in _documents(events, skus, Random(seed), impressions):
                    index = "ubi_events" if "action_name" in document else "ubi_queries"
                    file.write(f'{{"index": {{"_index": "{index}"}}}}\n' if bulk else "")
                    file.write(f"{json.dumps(document, ensure_ascii=False)}\n")
    return files


def _documents(
    events: list[dict[str, Any]], skus: dict[str, list[str]], random: Random, impressions: bool
) -> Iterator[dict[str, Any]]:
    lists: dict[str, list[str]] = {}
    for event in events:
        if event["event"] == "impression":
            lists.setdefault(event["request_id"], []).append(event["item_id"])
    variants = {(request, item): random.choice(skus[item]) for request, items in lists.items() for item in items}
    met = set()
    for event in events:
        request = event["request_id"]
        common = {
            "application": "shop",
            "query_id": request,
            "client_id": event["user_id"],
            "timestamp": event["event_time"].isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        if request not in met:
            met.add(request)
            found = {} if impressions else {"query_response_hit_ids": [variants[request, i] for i in lists[request]]}
            yield common | {"user_query": event["query"]} | found
        if impressions or event["event"] != "impression":
            yield common | {
                "action_name": ACTIONS[event["event"]],
                "session_id": event["session_id"],
                "event_attributes": {
                    "object": {"object_id": variants[request, event["item_id"]], "object_id_field": "sku"},
                    "position": {"ordinal": event["position"] - 1},
                },
            }


def write_exports(folder: Path, *, items: int, events: int, days: int, last_day: date, seed: int = 11) -> None:
    """Everything for a trial: feed.xml, products_export.csv, pictures/, and ubi/ with a file a day."""
    catalogue, products = draw_products(items, seed)
    (folder / "ubi").mkdir(parents=True, exist_ok=True)
    write_merchant_feed(folder / "feed.xml", products)
    write_shopify_export(folder / "products_export.csv", products)
    write_pictures(folder / "pictures", catalogue)
    write_ubi_log(
        folder / "ubi",
        catalogue,
        products,
        days=[last_day - timedelta(days=n) for n in reversed(range(days))],
        requests_per_day=round(events / days / EVENTS_A_REQUEST),
        seed=seed,
    )


def write_example(folder: Path) -> None:
    """Seven days of a shop that is small enough to lie in the repository."""
    catalogue, products = draw_products(100, seed=5)
    folder.mkdir(parents=True, exist_ok=True)
    write_merchant_feed(folder / "feed.xml", products)
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for name, content in catalogue.pictures.items():
            small = io.BytesIO()
            with Image.open(io.BytesIO(content)) as image:
                image.convert("RGB").resize((72, 96)).save(small, "JPEG", quality=60)
            archive.writestr(zipfile.ZipInfo(name, (2026, 11, 19, 0, 0, 0)), small.getvalue())
    days = [date(2026, 11, 13) + timedelta(days=n) for n in range(7)]
    with tempfile.TemporaryDirectory() as scratch:
        files = write_ubi_log(
            Path(scratch), catalogue, products, days=days, requests_per_day=440, seed=5, impressions=False, bulk=False
        )
        log = b"".join(file.read_bytes() for file in files)
    (folder / "ubi.ndjson.gz").write_bytes(gzip.compress(log, 9, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", action="store_true")
    parser.add_argument("--to", type=Path)
    parser.add_argument("--items", type=int, default=3_000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--date", type=date.fromisoformat, default=date(2026, 11, 19))
    options = parser.parse_args()
    if options.example:
        write_example(REPOSITORY / "examples" / "first_evening")
    elif options.to:
        write_exports(options.to, items=options.items, events=options.events, days=options.days, last_day=options.date)
    else:
        parser.error("--to FOLDER, or --example")


if __name__ == "__main__":
    main()
