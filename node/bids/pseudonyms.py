"""Pseudonyms that only the owner of a key can compute: labels of patients and studies, and shifts of dates.

The same key gives the same pseudonyms on every host and in every order. There is no table to keep or to leak.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from hashlib import sha256
from pathlib import Path

from node.durable import sync_folder
from node.errors import UsageError

KEY_BYTES = 32
LABEL_LETTERS = 12
"""60 bits: among a million patients, two have the same label with a probability of 1 to two million."""

BEFORE_DAYS = 150 * 365
"""Least shift of a date: until 2074, dates are then before 1925, by which BIDS knows them as shifted."""

SPREAD_DAYS = 3650


class Pseudonyms:
    """Pseudonyms by one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def label(self, kind: str, identity: str) -> str:
        """Return a label of a patient or a study: letters and digits, in lower case."""
        return base64.b32encode(self._digest(kind, identity)).decode("ascii").lower()[:LABEL_LETTERS]

    def mark(self, uid: str) -> str:
        """Return what a data set may keep to recognise an object by its UID."""
        return self._digest("uid", uid).hex()[:32]

    def shift_days(self, identity: str) -> int:
        """Return by how many days the dates of a patient are set back."""
        return BEFORE_DAYS + int.from_bytes(self._digest("dates", identity)[:8], "big") % SPREAD_DAYS

    def _digest(self, kind: str, text: str) -> bytes:
        message = f"{kind}\0{text}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key, message, sha256).digest()


def read_key(file: Path) -> bytes | None:
    """Return the key in a file, or None if there is no file.

    Raises
    ------
    UsageError
        Others may read the file, or it is too short for a key.
    """
    try:
        mode, key = file.stat().st_mode, file.read_bytes()
    except FileNotFoundError:
        return None
    if mode & 0o077:
        raise UsageError(f"{file}: others may read the key of the pseudonyms; run `chmod 600 {file}`")
    if len(key) < KEY_BYTES:
        raise UsageError(f"{file}: a key has at least {KEY_BYTES} bytes; make one by `head -c 32 /dev/urandom`")
    return key


def ephemeral_key() -> bytes:
    """Return a new key that is in no file."""
    return secrets.token_bytes(KEY_BYTES)


def made_key(file: Path) -> bytes:
    """Return the key in a file, which is made if it is missing: readable by its owner alone.

    Raises
    ------
    UsageError
        See `read_key`.
    """
    key = read_key(file)
    if key is None:
        key = ephemeral_key()
        part = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(key)
            stream.flush()
            os.fsync(descriptor)
        try:
            os.link(part, file)  # never replaces the key of another run
        except FileExistsError:
            return made_key(file)
        finally:
            part.unlink()
        sync_folder(file.parent)
    return key
