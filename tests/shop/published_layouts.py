"""Small archives in exactly the layouts in which the data sets are published."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
STYLES = (
    "1163,Men,Apparel,Topwear,Tshirts,Navy Blue,Summer,2011,Sports,Nike Sahara Team India Fanwear Round Neck Jersey",
    "1165,Men,Apparel,Topwear,Tshirts,Blue,Summer,2013,Sports,Nike Men Blue T-shirt",
    "1525,Unisex,Accessories,Bags,Backpacks,Navy Blue,Fall,2010,Casual,Puma Unisex Deck Navy Blue Backpack",
    "3954,Women,Apparel,Topwear,Tshirts,Pink,Summer,2011,Casual,Jealous 21 Women, Pink, Cotton Tshirt",
    '7491,Women,Apparel,Bottomwear,Shorts,Pink,Summer,,Sports,"Nike Women\'s EM Tempo 3.5"" Pink Short"',
    "9204,Men,Footwear,Shoes,Casual Shoes,Black,Summer,2011,Casual,Red Tape Men Black & White Casual Shoes",
    "9206,Men,Footwear,Shoes,Casual Shoes,Red,Summer,2011,Casual,Red Tape Men Red Shoes",
    "18653,Men,Accessories,Watches,Watches,NA,Winter,2016,NA,Titan Men Steel Watch",
    "40143,Women,Personal Care,Lips,Lipstick,Red,Spring,2017,Casual,Lakme Women True Wear Red Lipstick 214",
    "55573,Women,Personal Care,Skin Care,Face Moisturisers,White,Spring,2017,Casual,",
)


def jpeg(colour: tuple[int, int, int] = (200, 30, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 80), colour).save(file, "JPEG")
    return file.getvalue()


def write_fashion_archive(
    path: Path, rows: tuple[str, ...] = STYLES, *, header: str = HEADER, top: str = "", without: tuple[str, ...] = ()
) -> Path:
    """A zip, or a folder where `path` has no suffix; `without` names ids whose picture is missing."""
    files = {f"{top}styles.csv": ("\n".join((header, *rows)) + "\n").encode()}
    for row in rows:
        name = row.split(",", 1)[0]
        if name not in without:
            files[f"{top}images/{name}.jpg"] = jpeg()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def write_grocery_folder(folder: Path, *, without_column: str | None = None) -> Path:
    """Three products, one of them with three photos."""
    products = [
        ("iconic-000", "iconic", "Golden Delicious", "Golden-Delicious", 0, "Apple", 0, "Fruit", "iconic/000.jpg"),
        ("iconic-046", "iconic", "Arla Sour Cream", "Arla-Sour-Cream", 46, "Sour-Cream", 20, "Packages", "iconic/046.jpg"),
        ("iconic-080", "iconic", "Zucchini", "Zucchini", 80, "Zucchini", 42, "Vegetables", "iconic/080.jpg"),
        *(
            (f"{split}-Zucchini_00{n}", split, "Zucchini", "Zucchini", 80, "Zucchini", 42, "Vegetables", f"{split}/Zucchini_00{n}.jpg")
            for split, n in (("train", 1), ("test", 2))
        ),
    ]  # fmt: skip
    names = ["item_id", "split", "title", "fine_class", "fine_id", "coarse_class", "coarse_id", "top_category", "image"]
    columns = dict(zip(names, map(list, zip(*products, strict=True)), strict=True))
    columns["description"] = ["It is good."] * len(products)
    if without_column:
        del columns[without_column]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "products.parquet")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for product in products:
            archive.writestr(product[-1], jpeg((90, 160, 60)))
    return folder
