"""`smar encoder`: pretrained encoders by name."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer

app = typer.Typer(no_args_is_help=True, help="Add, list and remove pretrained encoders, which settings name.")


@app.command("add")
def add_command(
    name: Annotated[str, typer.Argument(help="What settings call it; minilm, lite0, lite1 and lite2 need no source.")],
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="package:NAME, a folder, or hub:ORGANISATION/NAME@REVISION."),
    ] = None,
    words: Annotated[
        bool,
        typer.Option(help="Distil vectors for the words tower from a text encoder: every token goes through it once."),
    ] = True,
) -> None:
    """Read, try and convert an encoder once; runs take it from the home folder and never fetch anything."""
    from smar_model.encoders.adding import add_encoder
    from smar_model.encoders.listing import describe_encoder

    added = add_encoder(name, source, words=words, report=lambda line: print(line, file=sys.stderr, flush=True))
    print(describe_encoder(added))
    for kind in added.has:
        print(f"In the settings: network: {{{kind}: {{pretrained: {name}}}}}")


@app.command("list")
def list_command() -> None:
    """Say what has been added: what each encoder reads, its size, languages, scripts, licence, source and digest."""
    from smar_model.encoders.listing import list_page

    print(list_page())


@app.command("remove")
def remove_command(name: Annotated[str, typer.Argument(help="As `smar encoder list` shows it.")]) -> None:
    """Remove an encoder. Trained models hold their own weights; a run that was begun with it and has not trained yet ends."""
    from smar_model.lake.encoder_store import remove_encoder

    remove_encoder(name)
    print(f"{name}: removed")
