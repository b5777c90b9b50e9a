"""Keys: made once, closed to others, read only by who signs; and what is not trusted."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from smar_model.errors import InputError
from smar_model.lake.signing_keys import sign, verify_signature
from smar_model.settings import REPOSITORY

CONTENT = b"a release"


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMAR_HOME", str(tmp_path))
    for name in ("SMAR_SIGNING_KEY", "SMAR_TRUSTED_KEYS", "SMAR_STORE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "keys"


def private_pem(key: Ed25519PrivateKey, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def public_pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def write_key(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    file.chmod(0o600)
    return file


def test_a_laptop_makes_its_own_key_closed_to_others(keys: Path) -> None:
    with pytest.raises(InputError, match="not among the trusted ones"):
        verify_signature(CONTENT, {"key": "0" * 16, "algorithm": "Ed25519", "signature": "AA=="})
    assert not keys.exists(), "who reads makes no key"
    signature = sign(CONTENT)
    assert stat.S_IMODE((keys / "signing_key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert verify_signature(CONTENT, signature) == signature["key"]
    assert sign(CONTENT) == signature
    assert [file.name for file in keys.iterdir() if file.name.startswith(".")] == []
    with pytest.raises(InputError, match="does not fit its content"):
        verify_signature(CONTENT + b" ", signature)


def test_processes_that_need_a_key_at_once_make_one(keys: Path) -> None:
    program = "from smar_model.lake.signing_keys import sign; print(sign(b'')['key'])"
    processes = [
        subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = {process.communicate()[0] for process in processes}
    assert len(said) == 1
    assert [file.stem for file in (keys / "trusted").iterdir()] == [said.pop().strip()]


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (lambda: b"", 0o600, "not a private key in PEM"),
        (lambda: private_pem(Ed25519PrivateKey.generate())[:60], 0o600, "not a private key in PEM"),
        (lambda: os.urandom(100), 0o400, "not a private key in PEM"),
        (lambda: public_pem(Ed25519PrivateKey.generate()), 0o600, "not a private key in PEM"),
        (
            lambda: private_pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"word")),
            0o600,
            "without a password",
        ),
        (
            lambda: generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            0o600,
            "not an Ed25519 key",
        ),
        (lambda: private_pem(Ed25519PrivateKey.generate()), 0o644, "is open to others (mode 644); `chmod 600"),
        (lambda: private_pem(Ed25519PrivateKey.generate()), 0o660, "is open to others (mode 660); `chmod 600"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_in_one_line(
    keys: Path, content: Callable[[], bytes], mode: int, says: str
) -> None:
    file = write_key(keys / "signing_key.pem", content())
    file.chmod(mode)
    with pytest.raises(InputError) as raised:
        sign(CONTENT)
    assert str(raised.value).startswith(f"{file}: ")
    assert says in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_team_names_its_keys(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMAR_STORE", "s3://bucket/home")
    with pytest.raises(InputError, match="SMAR_SIGNING_KEY: a release is signed, and machines that share SMAR_STORE"):
        sign(CONTENT)
    monkeypatch.setenv("SMAR_SIGNING_KEY", str(tmp_path / "team.pem"))
    with pytest.raises(InputError, match=r"team\.pem: the key that signs releases cannot be read: No such file"):
        sign(CONTENT)
    team, former = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    write_key(tmp_path / "team.pem", private_pem(team)).chmod(0o440)
    signature = sign(CONTENT)
    assert not keys.exists()
    trusted = write_key(tmp_path / "trusted" / "former.pem", public_pem(former))
    monkeypatch.setenv("SMAR_TRUSTED_KEYS", str(trusted.parent))
    with pytest.raises(InputError, match="not among the trusted ones"):
        sign(CONTENT)  # nobody could use what it signs
    write_key(trusted.parent / "team.pem", public_pem(team))
    write_key(trusted.parent / "aaa.pem", b"damaged")  # stops nothing
    assert verify_signature(CONTENT, signature)
    both = write_key(tmp_path / "both.pem", public_pem(former) + public_pem(team))
    monkeypatch.setenv("SMAR_TRUSTED_KEYS", str(both))
    monkeypatch.delenv("SMAR_SIGNING_KEY")
    assert verify_signature(CONTENT, signature) == signature["key"]
    write_key(both, private_pem(team))
    with pytest.raises(InputError, match="a private key among the trusted public ones"):
        verify_signature(CONTENT, signature)


@pytest.mark.parametrize(
    "signature",
    [
        *(None, [], "x", {}, {"key": 1}, {"key": "../x", "algorithm": "Ed25519", "signature": ""}),
        {"key": "0" * 16, "algorithm": "none", "signature": ""},
        {"key": "0" * 16, "algorithm": "Ed25519", "signature": "é"},
    ],
)
def test_what_is_no_signature_is_refused(keys: Path, signature: object) -> None:
    with pytest.raises(InputError, match=r"signature is not readable|which is not Ed25519"):
        verify_signature(CONTENT, signature)
