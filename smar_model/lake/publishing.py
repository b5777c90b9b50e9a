"""Publishing an output: written in private, then listed in a manifest that appears in one step, once all that it lists is on the disk."""

from __future__ import annotations

import json
import platform
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import reduce
from operator import add
from pathlib import Path

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from smar_model.errors import InputError, NoAnswer
from smar_model.lake.artifacts import Artifact, Metrics, contract_records, lake, load_artifact, manifest_path
from smar_model.lake.contracts import Column, Contract, load_contract
from smar_model.lake.digests import digest_json, digests_once
from smar_model.lake.durable_files import flush_files, make_folder
from smar_model.lake.output_digests import digest_top, files_by_top
from smar_model.lake.process_identity import this_process
from smar_model.lake.records import OPEN, DamagedRecord, parse_record, say_once
from smar_model.lake.shared_files import (
    create_if_absent,
    is_file,
    read_bytes,
    read_file,
    remove_folder,
    replace_file,
    share_files,
)
from smar_model.lake.stored_parts import StoredPart
from smar_model.settings import home


@with_config(OPEN)
class _ContractRecord(TypedDict):
    version: int
    columns: list[Column]


_CONTRACT = TypeAdapter(_ContractRecord)
READ = ".read"
"""In an attempt's folder: copies from the object store of what its process looked at. They go when the output is published."""


class Attempt:
    """A private folder to write into, until `publish` makes it real or `discard` removes it."""

    def __init__(self, stage: str, key: str) -> None:
        self.stage, self.key = stage, key
        self.id = uuid.uuid4().hex
        self.folder = lake() / stage / "attempts" / self.id
        self.parts: dict[str, list[StoredPart]] = {}
        """Table → files of it that Spark's workers have put into the object store; then this machine has none of that table."""
        make_folder(self.folder)
        (self.folder / ".owner.json").write_text(json.dumps(this_process()), encoding="utf-8")
        self.started = time.monotonic()

    def publish(
        self, *, metrics: Metrics, inputs: dict[str, str], settings: Mapping[str, object], made_by: str = ""
    ) -> Artifact:
        """List the files in a manifest and create it, unless another attempt was first: then that one is returned.

        `made_by` is a digest of how it was made, whatever it was made of; `newest_artifact` finds it again by that.

        Tables (sub-folders with Parquet files) must have a contract and agree with it.

        Raises:
            InputError: a table has no contract or differs from it, or its contract has changed incompatibly since it
                was last published under the same version.
        """
        shutil.rmtree(self.folder / READ, ignore_errors=True)
        tops = files_by_top(self.folder)
        contracts = self._verified_contracts(tops)
        files = [file for members in tops.values() for file in members]
        flush_files(files, root=self.folder)
        digests = dict(zip(files, digests_once(files), strict=True))
        content = {top: digest_top(top, members, digests, root=self.folder) for top, members in tops.items()}
        listed = {
            str(file.relative_to(self.folder)): {"bytes": file.stat().st_size, "sha256": digest}
            for file, digest in digests.items()
        }
        for table, parts in self.parts.items():
            contracts.append(load_contract(table))
            _refuse_incompatible(contracts[-1])
            content[table] = reduce(add, (part.rows for part in parts)).digest
            listed |= {part.name: {"bytes": part.bytes, "sha256": part.sha256} for part in parts}
        manifest = {
            "stage": self.stage,
            "key": self.key,
            "digest": digest_json(content),
            "content": content,
            "inputs": inputs,
            "settings": settings,
            "made_by": made_by,
            "metrics": metrics,
            "attempt": self.id,
            "files": listed,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.started, 2),
            "host": platform.node(),
        }
        # Read back first, as readers will digest what JSON has made of the metrics.
        manifest["manifest_digest"] = digest_json(json.loads(json.dumps(manifest)))
        share_files(files)
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        if not create_if_absent(manifest_path(self.stage, self.key), text):
            remove_folder(self.folder)
        elif self.parts:
            # A driver whose workers write keeps no part of a table.
            shutil.rmtree(self.folder, ignore_errors=True)
        for contract in contracts:
            _record_contract(contract)
        return load_artifact(self.stage, self.key)

    def _verified_contracts(self, tops: dict[str, list[Path]]) -> list[Contract]:
        contracts = []
        for top, members in tops.items():
            if (self.folder / top).is_dir() and any(m.suffix == ".parquet" for m in members):
                contracts.append(load_contract(top))
                contracts[-1].verify_files(members)
                _refuse_incompatible(contracts[-1])
        return contracts

    @property
    def stored_folder(self) -> str:
        """Name of its folder below the URL of the object store."""
        return self.folder.relative_to(home()).as_posix()

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.parts:
            with suppress(InputError, NoAnswer):  # the sweep removes them later
                remove_folder(self.folder)


def _contract_record(table: str) -> Path:
    return contract_records() / f"{table}.json"


def _record_contract(contract: Contract) -> None:
    columns = [column.model_dump(mode="json") for column in contract.columns]
    record = json.dumps({"version": contract.version, "columns": columns}, indent=1, ensure_ascii=False)
    kept = _contract_record(contract.table)
    if not is_file(kept) or read_file(kept) != record:
        replace_file(kept, record)


def _refuse_incompatible(contract: Contract) -> None:
    path = _contract_record(contract.table)
    if not is_file(path):
        return
    what_to_do = "it is written anew from the table as it is published now"
    try:
        record = parse_record(read_bytes(path), _CONTRACT, path=path, what_to_do=what_to_do)
    except DamagedRecord as damaged:
        say_once(str(damaged))
        return
    lines = contract.incompatibilities(record["columns"])
    if lines and contract.version <= record["version"]:
        raise InputError(
            f"schemas/{contract.table}.yaml: differs incompatibly from version {record['version']}, which this lake holds "
            f"({path}); undo the change, or make all readers fit and set `version: {record['version'] + 1}`:\n"
            + "\n".join(f"  {line}" for line in lines)
        )
