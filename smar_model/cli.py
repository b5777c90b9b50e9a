"""`smar`: every stage and every tool by hand. Parsing only; the work is imported when it is called for."""

from __future__ import annotations

import getpass
import json
import os
import sys
import traceback
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from smar_model.errors import BAD_INPUT, NOTHING_TO_DO, InputError, NoAnswer, NothingToDo, machine_failure
from smar_model.lake.interpreter import hand_over
from smar_model.lake.runs import Run, load_run
from smar_model.lake.stage import Stage, mending, run_stage
from smar_model.settings import REPOSITORY, home, load_settings
from smar_model.stages import COMPARISON_STAGES, REFRESH_STAGES, STAGES
from smar_model.url_secrets import mask_secrets

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split(":")[0]
)
shop_app = typer.Typer(no_args_is_help=True, help="Make, import and fill shops.")
app.add_typer(shop_app, name="shop")

RunOption = Annotated[str, typer.Option("--run", help="Name of a run begun with `smar start`.")]
SettingsOption = Annotated[Path, typer.Option("--settings", help="Settings file, such as configs/sample_shop.yaml.")]
SeedOption = Annotated[int, typer.Option(help="Seed of every draw.")]


TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Variable of the environment that torchrun sets for each process it starts."""


FIRST_DAY, LAST_DAY = date(1990, 1, 1), date(2999, 12, 31)


def parse_day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InputError(f"date {text!r}: write it as YYYY-MM-DD") from None
    if not FIRST_DAY <= day <= LAST_DAY:
        raise InputError(f"date {text!r}: no day of a click log; take one from {FIRST_DAY} to {LAST_DAY}")
    return day


@app.command()
def start(
    settings: SettingsOption,
    run: RunOption,
    day: Annotated[str, typer.Option("--date", help="Last day of the click log to read, YYYY-MM-DD.")],
    window_days: Annotated[Optional[int], typer.Option(help="Days of the log; default: the settings'.")] = None,  # noqa: UP045
    promotion: Annotated[
        Literal["automatic", "ask", "never"],
        typer.Option(
            help="Who lets a version that passed the gate become the champion: nobody else, a person, or nobody."
        ),
    ] = "automatic",
    changes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="NAME=VALUE: a setting of this run alone, as training.seed=1. May be repeated."),
    ] = None,
    note: Annotated[str, typer.Option(help="Why it is started, for the record.")] = "",
    release: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="For a refresh or a rollback, which reads the catalogue and no log: the release that it works on, `champion`, `previous` "
            "(the champion's predecessor) or a version's number. Exit code 99 where there is no champion, or none before it."
        ),
    ] = None,
) -> None:
    """Begin a run: check the settings, repair what a killed process left, resolve the champion, record it all."""
    from smar_model.release.start import start_run

    start_run(
        settings_path=settings,
        name=run,
        day=parse_day(day),
        window_days=window_days,
        promotion=promotion,
        changes=changes or (),
        note=note,
        release=release,
        steps=[*STAGES, *REFRESH_STAGES, "publish-index", "register", "promote", "rollback", "track"],
    )


def _begun_run(name: str, step: str) -> Run:
    """The run's record; the process goes on under the interpreter that its settings name for this step."""
    run = load_run(name)
    hand_over(step, run.settings)
    return run


def _add_stage_command(stage: Stage) -> None:
    def command(run: RunOption) -> None:
        record = _begun_run(run, stage.name)
        if stage.shared and (TORCHRUN in os.environ or stage.name in record.settings.stages.torchrun):
            from smar_model.training.launcher import launch, run_together

            run_together(stage, record) if TORCHRUN in os.environ else launch(stage, record)
        elif TORCHRUN in os.environ:
            raise InputError(f"{stage.name}: runs in one process; begin it without torchrun")
        else:
            run_stage(stage, record)

    app.command(name=stage.name, help=stage.summary)(command)


for _stage in (*STAGES.values(), *REFRESH_STAGES.values()):
    _add_stage_command(_stage)


@app.command()
def register(run: RunOption) -> None:
    """Put the run's model, index and report into the registry as one model version."""
    record = _begun_run(run, "register")
    from smar_model.release.register import register_run

    mending(record, lambda: register_run(record))


@app.command()
def promote(
    run: RunOption,
    approved_by: Annotated[
        str, typer.Option(help="Person who approved it; a run started with --promotion ask waits for one.")
    ] = "",
    rejected_by: Annotated[str, typer.Option(help="Person who rejected it.")] = "",
    comment: Annotated[str, typer.Option(help="Why, in that person's words.")] = "",
) -> None:
    """Make the run's version the champion, if the gate and the run allow it; a rejection is a normal end."""
    record = _begun_run(run, "promote")
    from smar_model.release.promote import promote_run

    mending(record, lambda: promote_run(record, approved_by=approved_by, rejected_by=rejected_by, comment=comment))


@app.command("describe-decision")
def describe_decision_command(
    run: RunOption,
    if_asked: Annotated[
        bool, typer.Option("--if-asked", help="Exit code 99 where no person's word would change anything.")
    ] = False,
) -> None:
    """Say as Markdown what a person needs who is asked whether the run's version becomes the champion."""
    record = _begun_run(run, "promote")
    from smar_model.release.describe_decision import describe_decision, refuse_idle_question

    if if_asked:
        refuse_idle_question(record)
    print(mending(record, lambda: describe_decision(record)))


@app.command("publish-index")
def publish_index_command(run: RunOption) -> None:
    """Point the release that the run works on at its refreshed index, once that has answered."""
    record = _begun_run(run, "publish-index")
    from smar_model.release.publish_index import publish_index

    mending(record, lambda: publish_index(record))


@app.command()
def rollback(
    run: RunOption,
    reason: Annotated[str, typer.Option(help="Why, for the history.")],
    by: Annotated[Optional[str], typer.Option(help="Who; default: this machine's user.")] = None,  # noqa: UP045
) -> None:
    """Make the release that the run works on the champion again, after `smar publish-index`."""
    record = _begun_run(run, "rollback")
    from smar_model.release.rollback import roll_back

    roll_back(record, reason=reason, by=by or _this_user())


def _this_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


@app.command()
def reconcile(settings: SettingsOption) -> None:
    """Finish what a killed release left; verify and record a champion that was set by hand. Fails where it cannot serve."""
    from smar_model.release.reconcile import reconcile as run_reconcile

    run_reconcile(load_settings(settings))


@app.command()
def sign(
    settings: SettingsOption,
    version: Annotated[str, typer.Option("--version", help="Number of the model version.")],
    by: Annotated[Optional[str], typer.Option(help="Who; default: this machine's user.")] = None,  # noqa: UP045
    without_record: Annotated[
        bool,
        typer.Option("--without-record", help="Though its run was made in another lake: you vouch for it."),
    ] = False,
) -> None:
    """Verify a version and sign it again, with the key at hand: one from before signatures, or whose key was lost or changed."""
    from smar_model.release.sign import sign_version

    sign_version(load_settings(settings), version, by=by or _this_user(), without_record=without_record)


@app.command()
def prune(
    settings: SettingsOption,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
) -> None:
    """Remove index builds, local copies and outputs of old runs that no kept release and no younger run needs (docs/releases.md)."""
    from smar_model.release.prune import prune as run_prune

    run_prune(load_settings(settings), dry_run=dry_run)


@app.command()
def track(run: RunOption) -> None:
    """Show the run and its stages in MLflow; may be repeated at any time."""
    record = _begun_run(run, "track")
    from smar_model.release.tracking import track_run

    mending(record, lambda: track_run(record))


@app.command("probe-vision")
def probe_vision_command(
    run: RunOption,
    generic: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of a timm model (config.json, model.safetensors) to compare with."),
    ] = None,
) -> None:
    """Judge the adapted vision encoder by a linear probe for true colour and type; needs a shop with `truth`."""
    record = _begun_run(run, "probe-vision")
    from smar_model.evaluation.vision_probe import format_probe, probe_vision

    print(format_probe(probe_vision(record, generic=generic)))
    print(f"Figures: {record.folder / 'vision_probe.json'}")


@app.command("train-oracle")
def train_oracle_command(
    run: RunOption,
    truth: Annotated[str, typer.Option(help="What it is told: `visible` (colour and type) or `all`.")] = "visible",
) -> None:
    """Train a text-only model that is told true attributes, on a run's tables; later runs are judged beside it."""
    record = _begun_run(run, "train-oracle")
    from smar_model.evaluation.oracle import train_oracle

    print(f"Oracle: run {train_oracle(record, truth, COMPARISON_STAGES).name}")


MinutesOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Begin no run that would probably end later; the same command goes on."),
]


@app.command()
def compare(
    settings: Annotated[Path, typer.Option(help="Comparison, such as configs/compare_real_products.yaml.")],
    only: Annotated[Optional[list[str]], typer.Option(help="Name of a row; may be repeated.")] = None,  # noqa: UP045
    seeds: Annotated[Optional[list[int]], typer.Option(help="One of its seeds; may be repeated.")] = None,  # noqa: UP045
    minutes: MinutesOption = None,
    page_only: Annotated[bool, typer.Option("--page-only", help="Measure nothing.")] = False,
    day: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--date", help="Last day of the click log, YYYY-MM-DD; default: the comparison's."),
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Print row and seed of what is missing as JSON, and do nothing else.")
    ] = False,
) -> None:
    """Train and judge the rows of a comparison that are not measured yet; write its page from all that are."""
    from smar_model.evaluation.compare import measure_missing, missing_rows
    from smar_model.evaluation.comparison import load_bench
    from smar_model.evaluation.quality_page import write_page

    bench = load_bench(settings, COMPARISON_STAGES, day=parse_day(day) if day else None)
    if list_only:
        print(json.dumps(missing_rows(bench, only=only or (), seeds=seeds or ())))
        return
    try:
        if not page_only:
            measure_missing(bench, only=only or (), seeds=seeds or (), minutes=minutes)
    finally:
        print(
            f"Page: {write_page(bench, command=f'smar compare --settings {settings}' + (f' --date {day}' if day else ''))}"
        )


@app.command()
def sweep(
    settings: Annotated[Path, typer.Option(help="Sweep, such as configs/sweep_real_products.yaml.")],
    minutes: MinutesOption = None,
) -> None:
    """Grid of pretraining's α, β, γ: measure the points that are missing, draw those that are there."""
    from smar_model.evaluation.sweep import sweep as run_sweep

    print(f"Drawing: {run_sweep(settings, stages=COMPARISON_STAGES, minutes=minutes)}")


DeploymentOption = Annotated[
    Path, typer.Option("--settings", envvar="SMAR_SETTINGS", help="Settings that name the registry and the model.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_SETTINGS = REPOSITORY / "configs" / "sample_shop.yaml"


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What a shopper would type.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Items to show.")] = 10,
    version: Annotated[Optional[str], typer.Option(help="Model version; default: the champion.")] = None,  # noqa: UP045
    department: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Only its items; may be repeated. Default: all."),
    ] = None,
    routing: Annotated[
        Optional[Literal["soft", "hard", "text", "pictures"]],  # noqa: UP045
        typer.Option(help="How text and pictures are weighed; default: as the model ships."),
    ] = None,
    settings: DeploymentOption = DEFAULT_SETTINGS,
    as_json: JsonOption = False,
) -> None:
    """Search the shop through the champion: titles, scores, pictures and P(q)."""
    from smar_model.release.show import search_release, show_search

    answer = search_release(
        load_settings(settings), query, k=k, version=version, departments=department or (), routing=routing
    )
    show_search(answer, as_json=as_json)


@app.command()
def serve(
    settings: DeploymentOption = DEFAULT_SETTINGS,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any free one.")] = 8000,
    poll_seconds: Annotated[float, typer.Option(min=0.1, help="Between two looks at the registry.")] = 2.0,
    others: Annotated[
        int, typer.Option(min=0, help="Versions kept in memory beside the champion, to compare with.")
    ] = 3,
    part: Annotated[
        int | None, typer.Option(min=0, help="Only this part of the index (`index.parts`), from 0; unset: all of it.")
    ] = None,
    front: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of a server with a part, one option for each: this one asks them all and holds none."
        ),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(min=0, help="After SIGTERM, how long requests are still answered while /readyz says 503."),
    ] = 5.0,
) -> None:
    """Serve search by the champion over HTTP: a JSON API and a page. Releases are followed without a restart."""
    from smar_model.serving.server import serve as run_server
    from smar_model.serving.server import serve_front

    if front:
        for address in front:
            if mask_secrets(address) != address:
                raise InputError(
                    f"--front {address}: holds a password or key, which logs would show; name the server alone, as http://host:port"
                )
        serve_front(front, host=host, port=port, drain_seconds=drain_seconds)
        return
    run_server(
        load_settings(settings),
        host=host,
        port=port,
        poll_seconds=poll_seconds,
        others_kept=others,
        part=part,
        drain_seconds=drain_seconds,
    )


@app.command()
def champion(settings: DeploymentOption = DEFAULT_SETTINGS, as_json: JsonOption = False) -> None:
    """Show which version is the champion and where its files are."""
    from smar_model.release.show import show_champion

    show_champion(load_settings(settings), as_json=as_json)


@app.command()
def history(as_json: JsonOption = False) -> None:
    """List promotions, rollbacks, refreshes, rejections and what was done by hand: who, when, from, to, why."""
    from smar_model.release.show import show_history

    show_history(as_json=as_json)


@app.command()
def doctor() -> None:
    """Say what this machine lacks (Java, disk, memory, packages, ports …) and how to get it."""
    from smar_model.doctor import examine, report

    sys.exit(report(examine()))


@app.command()
def tables() -> None:
    """Describe every table by its contract, as Markdown; `docs/tables.md` is this text."""
    from smar_model.lake.contracts import describe_tables

    print(describe_tables(), end="")


@app.command()
def variants(settings: DeploymentOption = DEFAULT_SETTINGS) -> None:
    """Show every variant of the network with its parameters and training FLOPs, as Markdown; `docs/variants.md` is this text."""
    from smar_model.training.variant_costs import variants_page

    source = settings.resolve()
    name = source.relative_to(REPOSITORY) if source.is_relative_to(REPOSITORY) else source
    print(variants_page(load_settings(settings), source=str(name)), end="")


@shop_app.command("open")
def open_shop_command(
    settings: SettingsOption,
    day: Annotated[str, typer.Option("--date", help="Last day of the window, YYYY-MM-DD.")],
    window_days: Annotated[Optional[int], typer.Option(min=1, help="Days; default: the settings'.")] = None,  # noqa: UP045
) -> None:
    """Check an own shop; make or complete a simulated one, so that a run up to this day finds all it needs."""
    from smar_model.shop.open_shop import open_shop

    opened = open_shop(load_settings(settings), day=parse_day(day), window_days=window_days)
    print(f"{opened.root}: open, {opened.days[0]} to {opened.days[-1]}")


@shop_app.command("make")
def make_shop_command(
    settings: SettingsOption,
    to: Annotated[Optional[Path], typer.Option(help="Root of a shop of any size, made on Spark.")] = None,  # noqa: UP045
    items: Annotated[Optional[int], typer.Option(min=12, help="With --to: size of its catalogue.")] = None,  # noqa: UP045
    days: Annotated[Optional[int], typer.Option(min=1, help="With --to: days of its click log.")] = None,  # noqa: UP045
    requests_per_day: Annotated[int, typer.Option(min=1, help="With --to: searches, about 13 events each.")] = 25_000,
    day: Annotated[Optional[str], typer.Option("--date", help="With --to: last day of its log, YYYY-MM-DD.")] = None,  # noqa: UP045
    seed: SeedOption = 0,
    pictures: Annotated[bool, typer.Option(help="With --to: draw a picture for each item; slow.")] = False,
) -> None:
    """Make the catalogue of the settings' simulated shop; or, with --to, a shop of any size for measuring and rehearsals."""
    loaded = load_settings(settings)
    if to is None and items is None and days is None and day is None:
        from smar_model.shop.open_shop import make_shop

        made = make_shop(loaded)
        print(f"{loaded.shop_root}: {'made' if made else 'there already, made from these settings'}")
        return
    if to is None or items is None or days is None or day is None:
        raise InputError("--to, --items, --days and --date go together: a shop of any size needs all four")
    from jobs.make_shop import Size
    from jobs.make_shop import make_shop as make_large_shop

    size = Size(items=items, days=days, requests_per_day=requests_per_day, seed=seed, pictures=pictures)
    counts = make_large_shop(to, size, last_day=parse_day(day), spark=loaded.spark)
    print(f"{to}: {counts['items']:,} items, {counts['requests']:,} requests, {counts['events']:,} events up to {day}")


@shop_app.command("log")
def log_day_command(
    settings: SettingsOption, day: Annotated[str, typer.Option("--date", help="Day to write, YYYY-MM-DD.")]
) -> None:
    """Let simulated shoppers write one day of the click log of a shop whose true attributes are known."""
    from smar_model.shop.open_shop import log_day

    counts = log_day(load_settings(settings), day=parse_day(day))
    print(f"{day}: {counts['requests']:,} requests, {counts['events']:,} events")


import_app = typer.Typer(
    no_args_is_help=True, help="Import published products into a shop; what others imported stays."
)
shop_app.add_typer(import_app, name="import")
ToOption = Annotated[Path, typer.Option("--to", help="Root of the shop, made where it is missing.")]
MaskOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--mask", help="ATTRIBUTE=SHARE: take it out of that share's text, as colour=0.7. May be repeated."),
]


@import_app.command("fashion-product-images-small")
def import_fashion_command(
    archive: Annotated[Path, typer.Argument(help="The published archive, zipped or unpacked.")],
    to: ToOption,
    items: Annotated[Optional[int], typer.Option(min=1, help="Products to draw; default: all.")] = None,  # noqa: UP045
    seed: SeedOption = 0,
    mask: MaskOption = None,
) -> None:
    """Fashion Product Images (small): styles.csv and images/."""
    from smar_model.shop import fashion_products, open_shop

    catalogue = fashion_products.import_fashion_products(archive, items=items, seed=seed)
    print(open_shop.add_import(to, fashion_products.SOURCE, catalogue, masks=mask or [], seed=seed))


@import_app.command("grocery-store")
def import_grocery_command(
    folder: Annotated[Path, typer.Argument(help="Folder with products.parquet and images.zip.")],
    to: ToOption,
    seed: SeedOption = 0,
    mask: MaskOption = None,
) -> None:
    """Grocery Store data set: 81 products with all their photos."""
    from smar_model.shop import grocery_store, open_shop

    catalogue = grocery_store.import_grocery_store(folder)
    print(open_shop.add_import(to, grocery_store.SOURCE, catalogue, masks=mask or [], seed=seed))


FolderArgument = Annotated[Path, typer.Argument(help="Folder of the published files, unpacked.")]
PicturesOption = Annotated[Optional[Path], typer.Option(help="Folder with the pictures on this machine.")]  # noqa: UP045


@import_app.command("esci")
def import_esci_command(
    folder: FolderArgument,
    to: ToOption,
    locale: Annotated[Optional[Literal["us", "es", "jp"]], typer.Option(help="Default: all.")] = None,  # noqa: UP045
    split: Annotated[Optional[Literal["train", "test"]], typer.Option(help="Default: both.")] = None,  # noqa: UP045
    small_version: Annotated[
        bool, typer.Option("--small-version", help="Only the pairs of the small version.")
    ] = False,
    image_urls: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="SQID's product_image_urls.csv; repeat it for the supplement."),
    ] = None,
    pictures: PicturesOption = None,
) -> None:
    """Amazon ESCI: judged queries and the products they name; with SQID's addresses of pictures."""
    from smar_model.shop.importers import esci
    from smar_model.shop.shop_writer import import_into

    with import_into(to, esci.SOURCE) as writer:
        esci.import_esci(
            folder,
            writer,
            locale=locale,
            split=split,
            small_version=small_version,
            image_urls=image_urls or [],
            pictures=pictures,
        )
    print(writer.summary())


@import_app.command("wands")
def import_wands_command(folder: FolderArgument, to: ToOption) -> None:
    """WANDS: Wayfair's products and judged queries."""
    from smar_model.shop.importers import wands
    from smar_model.shop.shop_writer import import_into

    with import_into(to, wands.SOURCE) as writer:
        wands.import_wands(folder, writer)
    print(writer.summary())


@import_app.command("marqo-gs")
def import_marqo_gs_command(
    folder: FolderArgument,
    to: ToOption,
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Such as query_0_product_id_0; default: all that are there."),
    ] = None,
    ground_truth: Annotated[
        Optional[Literal["dev", "test"]],  # noqa: UP045
        typer.Option(help="Judgments from the split's ground truth; default: all its pairs."),
    ] = None,
    pictures: PicturesOption = None,
) -> None:
    """Marqo-GS-10M: products and their places in a shopping search."""
    from smar_model.shop.importers import marqo_gs
    from smar_model.shop.shop_writer import import_into

    with import_into(to, marqo_gs.SOURCE) as writer:
        marqo_gs.import_marqo_gs(folder, writer, split=split, ground_truth=ground_truth, pictures=pictures)
    print(writer.summary())


@import_app.command("muge")
def import_muge_command(
    folder: FolderArgument,
    to: ToOption,
    split: Annotated[
        Optional[Literal["train", "valid", "test"]],  # noqa: UP045
        typer.Option(help="Default: all that are there."),
    ] = None,
) -> None:
    """MUGE: Chinese queries and pictures of products, which have no titles."""
    from smar_model.shop.importers import muge
    from smar_model.shop.shop_writer import import_into

    with import_into(to, muge.SOURCE) as writer:
        muge.import_muge(folder, writer, split=split)
    print(writer.summary())


@import_app.command("jdsearch")
def import_jdsearch_command(
    folder: FolderArgument,
    to: ToOption,
    day: Annotated[str, typer.Option("--date", help="Day to file all last searches under: the files name none.")],
    days: Annotated[int, typer.Option(min=1, help="Days of the log up to it.")] = 60,
) -> None:
    """JDsearch: products and what shoppers did, with a click log."""
    from smar_model.shop.importers import jdsearch
    from smar_model.shop.shop_writer import import_into

    with import_into(to, jdsearch.SOURCE) as writer:
        jdsearch.import_jdsearch(folder, writer, last_day=parse_day(day), days=days)
    print(writer.summary())


@import_app.command("jd-pretrain")
def import_jd_pretrain_command(
    folder: FolderArgument,
    to: ToOption,
    evaluation: Annotated[
        Optional[Literal["overall", "tail"]],  # noqa: UP045
        typer.Option(help="Judgments from this evaluation set; default: from finetune_data_er.tsv."),
    ] = None,
    separator: Annotated[
        str, typer.Option(help="What stands between the titles of a row of the evaluation set.")
    ] = ",",
) -> None:
    """JD's pretraining data: titles, categories and queries as encoded ids."""
    from smar_model.shop.importers import jd_pretrain
    from smar_model.shop.shop_writer import import_into

    with import_into(to, jd_pretrain.SOURCE) as writer:
        jd_pretrain.import_jd_pretrain(folder, writer, evaluation=evaluation, separator=separator)
    print(writer.summary())


@import_app.command("table")
def import_table_command(
    folder: Annotated[Path, typer.Argument(help="Folder that the file names in the mapping start from.")],
    to: ToOption,
    columns: Annotated[Path, typer.Option(help="YAML file that says which column is which; see docs/importers.md.")],
) -> None:
    """Any other tables (CSV, TSV, JSON lines, Parquet), by a YAML file of columns."""
    from smar_model.shop.importers import mapped_tables
    from smar_model.shop.shop_writer import import_into

    mapping = mapped_tables.load_mapping(columns)
    with import_into(to, mapping.source, replaces=mapping.replaces) as writer:
        mapped_tables.import_tables(folder, mapping, writer)
    print(writer.summary())


def main() -> None:
    """Entry point: bad input is one message on standard error and exit code 2; nothing to do is one, too, and 99; a service that does
    not answer, or a machine that refuses (a full disk), is one and 1, which Airflow tries again."""
    # Read when torch is first imported. Threads that spin while they wait make two busy processes many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app()
    except NothingToDo as nothing:
        print(f"nothing to do: {nothing}", file=sys.stderr)
        sys.exit(NOTHING_TO_DO)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except NoAnswer as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if line := machine_failure(error, default_place=str(home())):
            print(f"error: {line}", file=sys.stderr)
            sys.exit(1)
        # Not imported for this, nor is MLflow below: the command line must answer quickly.
        if type(error).__module__.startswith("sqlalchemy.") and isinstance(getattr(error, "orig", None), Exception):
            uri = os.environ.get(
                "MLFLOW_TRACKING_URI", "settings.release.tracking_uri, or mlflow.db in the home folder"
            )
            print(
                f"error: MLflow's database ({mask_secrets(uri)}): {' '.join(str(error.orig).split())}; bring it back from a backup, or "  # type: ignore[attr-defined]
                "move it away and let the next run be released into a new one",
                file=sys.stderr,
            )
            sys.exit(1 if "locked" in str(error) else BAD_INPUT)
        # MLflow's requests alone speak so.
        if type(error).__name__ != "MlflowException" or "API request to" not in str(error):
            sys.stderr.write(mask_secrets(traceback.format_exc()))
            sys.exit(1)
        if getattr(error, "error_code", "") in {"UNAUTHENTICATED", "PERMISSION_DENIED"}:
            print(
                "error: MLflow's server refuses this: log in as a user who may (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD): "
                + mask_secrets(" ".join(str(error).split())),
                file=sys.stderr,
            )
            sys.exit(BAD_INPUT)
        print(
            "error: MLflow's server does not answer: start it (settings.release.tracking_uri), then do this step again: "
            + mask_secrets(str(error)),
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
