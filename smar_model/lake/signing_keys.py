"""The keys that sign releases (Ed25519): a private one for who registers or refreshes a release, public ones for all who read it.

    SMAR_SIGNING_KEY    file of the private key, PEM; unset: <home>/keys/signing_key.pem, made when it is first needed
    SMAR_TRUSTED_KEYS   folder (*.pem) or file of public keys, PEM; unset: <home>/keys/trusted, and the public half of the private key

Private keys stay on their machine: with SMAR_STORE no file of `keys` is shared, so a team names its key by SMAR_SIGNING_KEY.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from smar_model.errors import InputError
from smar_model.lake.process_identity import temporary_beside
from smar_model.settings import home

SIGNING_KEY, TRUSTED_KEYS = "SMAR_SIGNING_KEY", "SMAR_TRUSTED_KEYS"
ALGORITHM = "Ed25519"
TOO_OPEN = 0o037
"""Permissions that a private key's file must not give. Its group may read it: Kubernetes gives secrets to a container's group."""
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


def keys_folder() -> Path:
    return home() / "keys"


def sign(content: bytes) -> dict[str, str]:
    """Sign with this machine's key, which is made where there is none and no other is named.

    Returns:
        key (its id), algorithm, signature (base64).

    Raises:
        InputError: the key cannot be used, or what it signs would be trusted by nobody.
    """
    key = signing_key()
    signature = {
        "key": key_id(key.public_key()),
        "algorithm": ALGORITHM,
        "signature": base64.b64encode(key.sign(content)).decode(),
    }
    verify_signature(content, signature)
    return signature


def verify_signature(content: bytes, signature: Any) -> str:
    """The id of the key that signed.

    Args:
        signature: as `sign` returns it, from whoever delivered it.

    Raises:
        InputError: it is no signature of this content by a trusted key.
    """
    try:
        key, algorithm = _KEY_ID.fullmatch(signature["key"])[0], signature["algorithm"]  # type: ignore[index]
        value = base64.b64decode(signature["signature"], validate=True)
    except (TypeError, KeyError, ValueError, binascii.Error):
        raise InputError("its signature is not readable") from None
    if algorithm != ALGORITHM:
        raise InputError(f"signed by {algorithm!r}, which is not {ALGORITHM}")
    try:
        _trusted_key(key).verify(value, content)
    except InvalidSignature:
        raise InputError(f"its signature by the key {key} does not fit its content") from None
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the raw public key."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def signing_key() -> Ed25519PrivateKey:
    """The private key of this machine or team, made where there is none and no other is named.

    Raises:
        InputError: its file is missing, damaged, of another kind, or open to others; or the home folder is shared and names no key.
    """
    if named := os.environ.get(SIGNING_KEY):
        return _read_private(Path(named))
    file = keys_folder() / "signing_key.pem"
    if not file.exists():
        if os.environ.get("SMAR_STORE"):
            raise InputError(
                f"{SIGNING_KEY}: a release is signed, and machines that share SMAR_STORE need one key: name its file "
                '(docs/releases.md, "Signatures")'
            )
        _make_key(file)
    return _read_private(file)


def _make_key(file: Path) -> None:
    """Create a key pair whole, or leave the one that another process has just created."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    temporary = temporary_beside(file)
    try:
        _write(temporary, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
        os.link(temporary, file)
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)
    # Kept apart from the private key: what it has signed is trusted even if that is lost.
    trusted = file.parent / "trusted"
    trusted.mkdir(mode=0o755, exist_ok=True)
    public = key.public_key()
    _write(
        trusted / f"{key_id(public)}.pem",
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        mode=0o644,
    )


def _write(file: Path, content: bytes, *, mode: int) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _read_private(file: Path) -> Ed25519PrivateKey:
    try:
        mode = file.stat().st_mode
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: the key that signs releases cannot be read: {error.strerror}") from None
    if stat.S_IMODE(mode) & TOO_OPEN:
        raise InputError(
            f"{file}: the key that signs releases is open to others (mode {stat.S_IMODE(mode):03o}); `chmod 600 {file}`"
        )
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(f"{file}: not a private key in PEM without a password; {_HOW_TO_MAKE.format(file)}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{file}: not an {ALGORITHM} key; {_HOW_TO_MAKE.format(file)}")
    return key


_HOW_TO_MAKE = "`openssl genpkey -algorithm ed25519 -out {}` makes one"


def _trusted_key(wanted: str) -> Ed25519PublicKey:
    """A trusted public key by its id.

    Raises:
        InputError: it is not among the trusted ones; names what could not be read of those.
    """
    unreadable: list[str] = []
    for file in _trusted_files():
        try:
            for key in _read_public(file):
                if key_id(key) == wanted:
                    return key
        except InputError as error:
            unreadable.append(str(error))
    if TRUSTED_KEYS not in os.environ and (own := _own_public_key()) and key_id(own) == wanted:
        return own
    place = os.environ.get(TRUSTED_KEYS) or keys_folder() / "trusted"
    told = f" ({'; '.join(unreadable)})" if unreadable else ""
    raise InputError(f"signed by the key {wanted}, which is not among the trusted ones in {place}{told}")


def _trusted_files() -> Iterator[Path]:
    named = os.environ.get(TRUSTED_KEYS)
    place = Path(named) if named else keys_folder() / "trusted"
    if place.is_dir():
        yield from sorted(place.glob("*.pem"))
    elif named:
        yield place


def _read_public(file: Path) -> Iterator[Ed25519PublicKey]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: a trusted key cannot be read: {error.strerror}") from None
    if b"PRIVATE KEY" in content:
        raise InputError(f"{file}: a private key among the trusted public ones; put its public half there alone")
    blocks = _PUBLIC.findall(content)
    if not blocks:
        raise InputError(f"{file}: not a public key in PEM")
    for block in blocks:
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm):
            raise InputError(f"{file}: not a public key in PEM") from None
        if not isinstance(key, Ed25519PublicKey):
            raise InputError(f"{file}: not an {ALGORITHM} key")
        yield key


def _own_public_key() -> Ed25519PublicKey | None:
    named = os.environ.get(SIGNING_KEY)
    file = Path(named) if named else keys_folder() / "signing_key.pem"
    # Who only reads releases need not have it, nor be able to read it.
    with suppress(InputError):
        return _read_private(file).public_key()
    return None
