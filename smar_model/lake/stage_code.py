"""What makes a stage's output: files of the checkout, and the third-party distributions that they import.

`stage_code.json` lists them for every stage. It is found from the imports (`make stage-code`, `tests/stage_code.py`) and kept true by a
test, so that neither a run nor an image needs what finds it.
"""

from __future__ import annotations

import json

from smar_model.digests import digest_files, digest_json
from smar_model.errors import InputError
from smar_model.settings import REPOSITORY

STAGE_CODE = REPOSITORY / "smar_model" / "stage_code.json"
LOCK = REPOSITORY / "requirements.lock"


def code_version(output: str) -> dict[str, str]:
    """Two digests: `code` of the files that make an output, `lock` of the lock's lines for what these import.

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
        code = digest_files((REPOSITORY / name for name in made_by["files"]), root=REPOSITORY)
    except FileNotFoundError as error:
        raise InputError(
            f"{STAGE_CODE}: {output} names {error.filename}, which is gone; run `make stage-code`"
        ) from None
    return {"code": code, "lock": digest_json([locked[name] for name in made_by["distributions"]])}
