"""Commands about what is released: repair, signatures, cleaning up, search, serving, history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from smar_model.cli.options import (
    DEFAULT_SETTINGS,
    ByOption,
    DeploymentOption,
    JsonOption,
    SettingsOption,
    parse_day,
    this_user,
)
from smar_model.errors import InputError
from smar_model.settings import load_settings
from smar_model.url_secrets import mask_secrets

app = typer.Typer()


@app.command()
def reconcile(settings: SettingsOption) -> None:
    """Finish what a killed release left; verify and record a champion that was set by hand. Fails where it cannot serve."""
    from smar_model.release.reconcile import reconcile as run_reconcile

    run_reconcile(load_settings(settings))


@app.command()
def sign(
    settings: SettingsOption,
    version: Annotated[str, typer.Option("--version", help="Number of the model version.")],
    by: ByOption = None,
    without_record: Annotated[
        bool,
        typer.Option("--without-record", help="Though its run was made in another lake: you vouch for it."),
    ] = False,
) -> None:
    """Verify a version and sign it again, with the key at hand: one from before signatures, or whose key was lost or changed."""
    from smar_model.release.sign import sign_version

    sign_version(load_settings(settings), version, by=by or this_user(), without_record=without_record)


@app.command()
def prune(
    settings: SettingsOption,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
) -> None:
    """Remove index builds, local copies and outputs of old runs that no kept release and no younger run needs (docs/releases.md)."""
    from smar_model.release.prune import prune as run_prune

    run_prune(load_settings(settings), dry_run=dry_run)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What a shopper would type.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Items to show.")] = 10,
    version: Annotated[Optional[str], typer.Option(help="Model version; default: the champion.")] = None,  # noqa: UP045
    department: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Only its items; may be repeated. Default: all."),
    ] = None,
    filters: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--filter", help="Only items that match: attributes.colour:red, price<50, available …; may be repeated."
        ),
    ] = None,
    routing: Annotated[
        Optional[Literal["soft", "hard", "text", "pictures"]],  # noqa: UP045
        typer.Option(help="How text and pictures are weighed; default: as the model ships."),
    ] = None,
    settings: DeploymentOption = DEFAULT_SETTINGS,
    as_json: JsonOption = False,
    no_server: Annotated[
        bool, typer.Option("--no-server", help="Search in this process even where a `smar serve` of this model runs.")
    ] = False,
) -> None:
    """Search the shop through the champion: titles, scores, pictures and P(q). A `smar serve` of this home's model is asked where one runs."""
    if not query.strip():
        raise InputError("the query is empty; write what a shopper would type")
    from smar_model.release.search_answer import SearchQuestion, show_search
    from smar_model.serving.running_server import ask_running_server

    query = query.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # bytes that are no UTF-8
    loaded, asked = (
        load_settings(settings),
        SearchQuestion(
            query=query, k=k, version=version, departments=department or (), filters=filters or (), routing=routing
        ),
    )
    answer = None if no_server else ask_running_server(loaded, asked)
    if answer is None:
        from smar_model.release.search_release import search_release

        answer = search_release(loaded, asked)
    show_search(answer, as_json=as_json)


@app.command("refresh-stock")
def refresh_stock_command(
    settings: DeploymentOption = DEFAULT_SETTINGS,
    source: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--from",
            help="Parquet or JSON lines by schemas/stock.yaml; default: stock.parquet or stock.jsonl of the shop.",
        ),
    ] = None,
) -> None:
    """Publish prices and stock that changed; running servers filter by them within seconds, without a new index."""
    from smar_model.release.show import index_item_ids
    from smar_model.release.stock import refresh_stock

    loaded = load_settings(settings)
    pointer = refresh_stock(loaded, source, lambda: index_item_ids(loaded), print)
    print(f"published: prices and stock of {pointer.items:,} items, {pointer.digest[:12]}")


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
            help="Address of a server with a part, one option for each part; of several servers with the same part, theirs with commas "
            "between. This one asks them all and holds none."
        ),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(min=0, help="After SIGTERM, how long requests are still answered while /readyz says 503."),
    ] = 5.0,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Folder (SHOP/click_log) or URL of an object store where answers and events are kept, by days (docs/live.md).",
        ),
    ] = None,
    interleave: Annotated[
        str | None,
        typer.Option(
            metavar="A:B",
            help="Interleave the lists of two versions, champion:challenger or numbers as 3:5, for --share of the users.",
        ),
    ] = None,
    share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Of the users, for --interleave; default: 0.1.")
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="That answer behind the port, each with the champion in its memory; as many as cores at most."
        ),
    ] = 1,
) -> None:
    """Serve search by the champion over HTTP: a JSON API and a page. Releases are followed without a restart."""
    from smar_model.serving.server import serve as run_server
    from smar_model.serving.server import serve_front

    if log is not None and not log.strip():
        raise InputError("--log: no place is named; write the path of a folder, as SHOP/click_log")
    if share is not None and not interleave:
        raise InputError(f"--share {share:g}: of the users, for what? Add --interleave champion:challenger")
    if front:
        for address in front:
            if mask_secrets(address) != address:
                raise InputError(
                    f"--front {address}: holds a password or key, which logs would show; name the server alone, as http://host:port"
                )
        if interleave:
            raise InputError("--front: a front holds no versions to interleave; leave out --interleave")
        serve_front(front, host=host, port=port, drain_seconds=drain_seconds, log_place=log, processes=processes)
        return
    run_server(
        load_settings(settings),
        host=host,
        port=port,
        poll_seconds=poll_seconds,
        others_kept=others,
        part=part,
        drain_seconds=drain_seconds,
        log_place=log,
        interleave=interleave,
        share=0.1 if share is None else share,
        processes=processes,
    )


@app.command()
def interleaving(
    settings: DeploymentOption = DEFAULT_SETTINGS,
    log: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with the log's days, dt=YYYY-MM-DD; default: the shop's click_log."),
    ] = None,
    pair: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Only this one, champion:challenger by number of their versions, as 3:5."),
    ] = None,
    first: Annotated[Optional[str], typer.Option("--from", help="First day to look at, YYYY-MM-DD.")] = None,  # noqa: UP045
    last: Annotated[Optional[str], typer.Option("--to", help="Last day to look at, YYYY-MM-DD.")] = None,  # noqa: UP045
    as_json: JsonOption = False,
) -> None:
    """Say which version shoppers prefer, by interleaved lists of `smar serve --interleave`: docs/gate.md."""
    from smar_model.evaluation.interleaved_experiments import (
        experiments_as_json,
        format_experiments,
        parse_pair,
        read_experiments,
    )

    days = [parse_day(day) if day else None for day in (first, last)]
    if days[0] and days[1] and days[0] > days[1]:
        raise InputError(f"--from {first}: is after --to {last}")
    found = read_experiments(
        load_settings(settings), log=log, first=days[0], last=days[1], pair=parse_pair(pair) if pair else None
    )
    print(json.dumps(experiments_as_json(found), indent=1) if as_json else format_experiments(found))


@app.command()
def export(
    to: Annotated[Path, typer.Option("--to", help="Folder to make; one that holds something is left as it is.")],
    table_format: Annotated[Literal["parquet"], typer.Option("--format", help="Of the table.")] = "parquet",
    version: Annotated[Optional[str], typer.Option(help="Model version; default: the champion.")] = None,  # noqa: UP045
    settings: DeploymentOption = DEFAULT_SETTINGS,
) -> None:
    """Write a release's items with their embeddings for another engine: a table, and export.json, which says how to ask it (docs/engines.md)."""
    from smar_model.release.export import export_release

    done = export_release(load_settings(settings), version, to)
    print(
        f"{to}: {done.items:,} items of version {done.version}, vectors of {done.vector_dimension} from the {done.embeddings_from}"
    )


@app.command()
def finish_log(
    place: Annotated[str, typer.Argument(help="As it was given to `smar serve --log`.")],
) -> None:
    """Finish the files that killed servers left in a log, so that they are read; those of living ones are not touched."""
    from smar_model.serving.answer_log import finish_log as run_finish

    for line in run_finish(place).lines() or ["nothing was left"]:
        typer.echo(line)


@app.command()
def shopper_id(
    user: Annotated[str, typer.Argument(help="The shop's own key of a user, as its pages send it.")],
) -> None:
    """Show the user_id by which logs of `smar serve --log` know a user: to find or delete their rows (docs/live.md)."""
    from smar_model.serving.shopper_ids import id_of_user

    typer.echo(id_of_user(user))


@app.command()
def champion(settings: DeploymentOption = DEFAULT_SETTINGS, as_json: JsonOption = False) -> None:
    """Show which version is the champion and where its files are."""
    from smar_model.release.show import show_champion

    show_champion(load_settings(settings), as_json=as_json)


@app.command()
def history(as_json: JsonOption = False) -> None:
    """List promotions, rollbacks, refreshes, rejections and what was done by hand: who, when, from, to, why."""
    from smar_model.release.describe_history import show_history

    show_history(as_json=as_json)
