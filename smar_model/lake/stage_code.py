"""What makes a stage's output: files of the checkout, and the third-party distributions that they import.

`stage_code.json` lists them for every stage. It is found from the imports (`make stage-code`, `tests/stage_code.py`) and kept true by a
test, so that neither a run nor an image needs what finds it.
"""

from __future__ import annotations

import json
from typing import TypedDict

from smar_model.errors import InputError
from smar_model.lake.digests import digest_file
from smar_model.settings import REPOSITORY

STAGE_CODE = REPOSITORY / "smar_model" / "stage_code.json"
LOCK = REPOSITORY / "requirements.lock"


class CodeVersion(TypedDict):
    code: dict[str, str]
    """File of the checkout → digest."""
    lock: list[str]
    """Lines of the lock."""


def code_version(output: str) -> CodeVersion:
    """The files that make an output, and the locked versions of what these import.

    Args:
        output: name of a stage, or of an output that a stage publishes beside its own (`stages.PARTS`).

    Raises:
        InputError: `stage_code.json` or the lock lacks it.
    """
    made_by = json.loads(STAGE_CODE.read_text(encoding="utf-8")).get(output)
    if made_by is None:
        raise InputError(f"{STAGE_CODE}: no entry for {output}; write the file anew with `make stage-code`")
    locked = {line.partition("==")[0]: line for line in LOCK.read_text(encoding="utf-8").splitlines()}
    if missing := sorted(set(made_by["distributions"]) - set(locked)):
        raise InputError(f"{LOCK}: no version of {missing[0]}, which {output} imports; run `make lock`")
    try:
        code = {name: digest_file(REPOSITORY / name) for name in made_by["files"]}
    except FileNotFoundError as error:
        raise InputError(
            f"{STAGE_CODE}: {output} names {error.filename}, which is gone; run `make stage-code`"
        ) from None
    return {"code": code, "lock": [locked[name] for name in made_by["distributions"]]}
