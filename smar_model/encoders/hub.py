"""A model from Hugging Face's hub, fetched once when it is added; a run never asks the hub for anything."""

from __future__ import annotations

import re
from pathlib import Path

from smar_model.errors import InputError, NoAnswer, first_line
from smar_model.url_secrets import mask_secrets

_NAMED = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
WANTED = (
    *("config.json", "model.safetensors", "model*.safetensors", "model.safetensors.index.json", "README.md"),
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model"),
    *("sentencepiece*.model", "preprocessor_config.json", "open_clip_config.json", "open_clip_model.safetensors"),
)
"""Pickled weights are not even fetched."""


def fetch_repository(named: str, folder: Path) -> tuple[Path, str]:
    """Fetch what is read of `ORGANISATION/NAME@REVISION`; returns the folder, and what names it, with the commit.

    Raises:
        InputError: it is not of that form.
        NoAnswer: the hub cannot be reached, or has no such repository or revision.
    """
    from huggingface_hub import HfApi, snapshot_download

    match = _NAMED.fullmatch(named)
    if match is None:
        raise InputError(
            f"hub:{named}: write hub:ORGANISATION/NAME@REVISION, with a branch, tag or commit for the revision, such as main"
        )
    try:
        commit = HfApi().model_info(match["repository"], revision=match["revision"], timeout=30).sha
        snapshot_download(match["repository"], revision=commit, local_dir=folder, allow_patterns=list(WANTED))
    except Exception as error:  # httpx's, the hub's own, the disk's: each says what it met
        raise NoAnswer(
            f"hub:{named}: cannot be fetched: {mask_secrets(first_line(error))}; where there is no net, bring the repository's folder here and "
            "add that"
        ) from None
    return folder, f"hub:{match['repository']}@{commit}"
