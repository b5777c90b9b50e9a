"""Small archives in exactly the layouts in which the data sets are published."""

from __future__ import annotations

import base64
import io
import json
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


def write_esci(
    folder: Path, *, examples: list[dict] | None = None, products: list[dict] | None = None, urls: bool = True
) -> Path:
    """Amazon ESCI with SQID's addresses; the second US product has no title, `X4` is judged but not published."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [
        "query",
        "query_id",
        "product_id",
        "product_locale",
        "esci_label",
        "small_version",
        "large_version",
        "split",
    ]
    rows = [
        ("red lamp", 0, "B01", "us", "E", 1, 1, "test"),
        ("red lamp", 0, "B02", "us", "S", 1, 1, "test"),
        ("red lamp", 0, "X4", "us", "I", 0, 1, "test"),
        ("light bulb e27", 1, "B01", "us", "C", 1, 1, "train"),
        ("lámpara roja", 2, "B01", "es", "E", 0, 1, "train"),
    ]
    examples = examples or [{"example_id": n, **dict(zip(names, row, strict=True))} for n, row in enumerate(rows)]
    # As pandas wrote it: the index goes along.
    pq.write_table(
        pa.Table.from_pylist([{**row, "__index_level_0__": n} for n, row in enumerate(examples)]),
        folder / "shopping_queries_dataset_examples.parquet",
    )
    columns = ["id", "title", "description", "bullet_point", "brand", "color"]
    goods = [
        ("B01", " Lamp,  red\tE27 ", "A lamp.", "Bright\nWarm", "Lumo", "Red", "us"),
        ("B02", None, None, None, None, None, "us"),
        ("B01", "Lámpara roja", None, None, "Lumo", None, "es"),
        ("B09", "Not judged", None, None, None, None, "us"),
    ]
    fields = [*(f"product_{name}" for name in columns), "product_locale"]
    pq.write_table(
        pa.Table.from_pylist(
            products or [dict(zip(fields, row, strict=True)) for row in goods],
            schema=pa.schema([(name, pa.string()) for name in fields]),
        ),
        folder / "shopping_queries_dataset_products.parquet",
    )
    if urls:
        default = (
            "https://m.media-amazon.com/images/G/01/digital/video/web/Default_Background_Art_LTR._SX1080_FMjpg_.jpg"
        )
        lines = [
            "product_id,image_url",
            "B01,https://m.media-amazon.com/images/I/81Q8._SY385_.jpg",
            f"B02,{default}",
            "B03,",
        ]
        (folder / "product_image_urls.csv").write_text("\n".join(lines) + "\n")
    return folder


WANDS_PRODUCTS = (
    "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features\trating_count\taverage_rating\treview_count",
    "0\tsolid wood platform bed\tBeds\tFurniture / Bedroom Furniture / Beds & Headboards\tgood , deep sleep\t"
    "overallwidth-sidetoside:64.7|color : brown|color : black| : gray wood\t15.0\t4.5\t15.0",
    '1\t"bar stool 29 "" high"\tBar Stools|Teen Lounge\t\t\tframe : steel\t\t\t',
    "2\t\tBar Stools\tFurniture / Kitchen\t\t\t\t\t",
)
WANDS_LABELS = ("id\tquery_id\tproduct_id\tlabel", "0\t7\t0\tExact", "1\t7\t1\tPartial", "2\t8\t0\tIrrelevant")


def write_wands(
    folder: Path, *, products: tuple[str, ...] = WANDS_PRODUCTS, labels: tuple[str, ...] = WANDS_LABELS
) -> Path:
    """WANDS as its repository lays it out."""
    (folder / "dataset").mkdir(parents=True, exist_ok=True)
    queries = ("query_id\tquery\tquery_class", "7\twooden bed\tBeds", "8\tblue sofa\tSofas")
    for name, lines in (("product", products), ("query", queries), ("label", labels)):
        (folder / "dataset" / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


MARQO_SPLIT = (
    "image_local,product_id,query,title,position,pair_id,score_linear,score_reciprocal,no_score,query_id",
    'images/p1.webp,p1,"dress, red",Red dress,1,k0,100,1.0,1,q0',
    'images/p2.webp,p2,"dress, red",Wine dress,11,k1,90,0.0909,1,q0',
    'images/p3.webp,p3,"dress, red",Scarf,51,k2,50,0.0196,1,q0',
    "images/p1.webp,p1,gown,Red dress,20,k3,81,0.05,1,q1",
)


def write_marqo_gs(folder: Path, *, rows: tuple[str, ...] = MARQO_SPLIT) -> Path:
    """Marqo-GS-10M: a seen and a novel split, ground truth, and pictures; p3's picture is not delivered."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for name in ("p1", "p2"):
        (folder / "pictures" / f"{name}.webp").write_bytes(jpeg())
    (folder / "query_0_product_id_0.csv").write_text("\n".join(rows) + "\n")
    novel = "images/p4.webp,p4,shawl,Wool shawl,2,k4,99,0.5,1,q2"
    (folder / "query_1_product_id_1.csv").write_text("\n".join((rows[0], novel)) + "\n")
    truth = {"dress, red_{!@#~}_": {"p1": 100, "p2": 90}}
    (folder / "query_0_product_id_0_gt_dev.json").write_text(json.dumps(truth))
    return folder


def write_muge(
    folder: Path, *, pictures: tuple[str, ...] | None = None, queries: tuple[str, ...] | None = None
) -> Path:
    """MUGE: training and test pictures in base64; the test queries have no items."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = base64.b64encode(jpeg()).decode()
    default = (f"42967\t{picture}", f"63397\t{picture.replace('+', '-').replace('/', '_')}")
    (folder / "MR_train_imgs.tsv").write_text("\n".join(pictures or default) + "\n")
    (folder / "MR_train_queries.jsonl").write_text(
        "\n".join(
            queries
            or (
                '{"query_id": 8426, "query_text": "胖妹妹松紧腰长裤", "item_ids": [42967]}',
                '{"query_id": 8428, "query_text": "高级感托特包斜挎", "item_ids": [42967, 63397]}',
            )
        )
        + "\n",
        encoding="utf-8",
    )
    (folder / "MR_test_imgs.tsv").write_text(f"1000002\t{picture}\n")
    (folder / "MR_test_queries.jsonl").write_text('{"query_id": 352962, "query_text": "帆布鞋女"}\n', encoding="utf-8")
    return folder


JDSEARCH_BEHAVIOUR = (
    "query\tcandidate_wid_list\tcandidate_label_list\thistory_qry_list\thistory_wid_list\thistory_type_list\thistory_time_list",
    "12\x1832\t456_457_458_459\t3.0_2.0_1.0_0.0\t323\x18328_-1_54_54_54\t889_256_456_456_457\t"
    "ORD_CLICK_CLICK_ORD_FLW\t0_100_86400_5_60_43200",
    "77\t456\t0.0\t\t\t\t0",
)


def write_jdsearch(
    folder: Path, *, behaviour: tuple[str, ...] = JDSEARCH_BEHAVIOUR, first_release: bool = False
) -> Path:
    """JDsearch with the names of its second release, with headers; those of the first had none."""
    folder.mkdir(parents=True, exist_ok=True)
    header = (
        "wid\tname\tbrand_id\tbrand_name\tcate_id_1\tcate_name_1\tcate_id_2\tcate_name_2\t"
        "cate_id_3\tcate_name_3\tcate_id_4\tcate_name_4\tshop_id"
    )
    products = (
        header,
        "456\t64\x1860\x1846\t81\t56\t22\t44\x1838\t80\t27\t13\t19\t50\t47\t865",
        "457\t64\x1861\t81\t\t22\t44\x1838\t80\t27\t13\t19\t50\t\t865",
    )
    skip = int(first_release)
    names = (
        ("product_data.txt", "release_data.txt")
        if first_release
        else ("product_meta_data.txt", "user_behavior_data.txt")
    )
    for name, lines in zip(names, (products, behaviour), strict=True):
        (folder / name).write_text("\n".join(lines[skip:]) + "\n")
    return folder


def write_jd_pretrain(folder: Path, *, pairs: tuple[str, ...] = ("8 9\t1 2 3", "8 9\t4 5", "7\t6 6 6")) -> Path:
    """JD's pretraining data: no headers; a title of the pairs need not be in the pretraining file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pretrain_data.tsv").write_text("1 2 3\t501\n4 5\t502\n1 2 3\t501\n")
    (folder / "finetune_data_er.tsv").write_text("\n".join(pairs) + "\n")
    (folder / "finetune_data_uid.tsv").write_text("8 9\t501,502\n")
    for name in ("overall", "tail"):
        (folder / f"eval_{name}.tsv").write_text("9 9\t501,502\t1 2 3,4 5\n")
    return folder
