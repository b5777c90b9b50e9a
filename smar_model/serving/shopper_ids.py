"""How a log names shoppers: keyed hashes (HMAC-SHA-256), so that who has the log alone cannot try out who is meant.

    SMAR_SHOPPER_KEY    file of the key; unset: <home>/keys/shopper_ids.key, made when it is first needed

The key is the same from day to day, so a shopper is the same one in every day's log. With another key all are strangers.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from hashlib import sha256
from pathlib import Path

from smar_model.errors import InputError
from smar_model.lake.durable_files import create_plain_file
from smar_model.lake.signing_keys import TOO_OPEN, keys_folder
from smar_model.serving.api_schemas import MAXIMUM_USER

SHOPPER_KEY = "SMAR_SHOPPER_KEY"
KEY_BYTES = 32
LEAST_BYTES = 16


class ShopperIds:
    """Hashes of users and sessions, 32 hexadecimal digits."""

    def __init__(self, key: bytes) -> None:
        self._key = hmac.new(key, digestmod=sha256)

    def user(self, user: str | None, request_id: str) -> str:
        """Of a user; without one, of the request, which then counts as a visit of its own."""
        return self._hashed("visit", request_id) if user is None else self._hashed("user", user)

    def session(self, session: str | None, user: str | None, request_id: str, day: str) -> str:
        """Of a session; without one, of the user's day, or of the request."""
        if session is not None:
            return self._hashed("session", session)
        return self._hashed("visit", request_id) if user is None else self._hashed("day", f"{day} {user}")

    def _hashed(self, kind: str, text: str) -> str:
        digest = self._key.copy()
        digest.update(f"{kind}\0{text}".encode("utf-8", "replace"))
        return digest.hexdigest()[:32]


def id_of_user(user: str) -> str:
    """By which user_id the log of this home's servers knows a user.

    Raises:
        InputError: no server would take such a user, or there is no key, so that no log knows anybody.
    """
    if not 1 <= len(user) <= MAXIMUM_USER:
        raise InputError(f"USER has {len(user):,} characters; servers take users of 1 to {MAXIMUM_USER} alone")
    if not (file := _key_file()).exists():
        raise InputError(
            f"{file}: there is no key here, so no log of this home knows a user; set SMAR_HOME to the servers' home, "
            f"or {SHOPPER_KEY} to the file of their key"
        )
    return ShopperIds(_read_key(file)).user(user, "")


def _key_file() -> Path:
    named = os.environ.get(SHOPPER_KEY)
    return Path(named) if named else keys_folder() / "shopper_ids.key"


def shopper_ids() -> ShopperIds:
    """By the key of this machine or team, which is made where there is none and no other is named.

    Raises:
        InputError: its file is missing, too short, or open to others; or machines share SMAR_STORE and none is named.
    """
    named, file = os.environ.get(SHOPPER_KEY), _key_file()
    if not named and not file.exists():
        if os.environ.get("SMAR_STORE"):
            raise InputError(
                f"{SHOPPER_KEY}: shoppers are hashed before they are logged, and machines that share SMAR_STORE need one key: "
                'name its file (docs/live.md, "Shoppers")'
            )
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_plain_file(file, secrets.token_hex(KEY_BYTES), mode=0o600)
    return ShopperIds(_read_key(file))


def _read_key(file: Path) -> bytes:
    try:
        mode, key = file.stat().st_mode, file.read_bytes().strip()
    except OSError as error:
        raise InputError(f"{file}: the key that hashes shoppers cannot be read: {error.strerror}") from None
    if stat.S_IMODE(mode) & TOO_OPEN:
        raise InputError(
            f"{file}: the key that hashes shoppers is open to others (mode {stat.S_IMODE(mode):03o}); `chmod 600 {file}`"
        )
    if len(key) < LEAST_BYTES:
        raise InputError(
            f"{file}: the key that hashes shoppers has {len(key)} bytes, fewer than {LEAST_BYTES}; "
            "`openssl rand -hex 32` makes one"
        )
    return key
