"""What proves who asks over HTTP: passwords (Argon2id, RFC 9106) and random tokens.

A password is hashed where it is typed, so that it never crosses a file or the index. Tokens are random numbers of
256 bits, which nobody guesses, so that one SHA-256 keeps them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from functools import cache
from typing import TYPE_CHECKING

from node.errors import UsageError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH = 12, 256
"""NIST SP 800-63B 3.1.1: length is what counts; a bound on top, because every hash takes as long as its input."""

TOKEN_PREFIX = "vxn_"
"""Tells scanners of source code and people what this secret opens."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def require_name(name: str) -> str:
    """Return `name` if an account may have it.

    Raises
    ------
    UsageError
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of an account: 1 to 64 letters, digits and . _ @ -, beginning with a letter or digit"
        )
    return name


def hash_password(password: str) -> str:
    """The Argon2id hash of a new password.

    Raises
    ------
    UsageError
        It is too short or too long; the message does not quote it.
    """
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise UsageError(
            f"the password has {len(password)} characters: {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} are wanted; "
            "several words are easier to remember than signs"
        )
    return _hasher().hash(password)


def is_password(password: str, password_hash: str | None) -> bool:
    """Whether a password fits a hash. Without a hash it takes as long, so that the time tells no names of accounts."""
    from argon2.exceptions import Argon2Error, InvalidHashError

    if len(password) > MAX_PASSWORD_LENGTH:
        return False
    try:
        return _hasher().verify(password_hash or _nobodys_hash(), password) and password_hash is not None
    except (Argon2Error, InvalidHashError):
        return False


def new_token() -> str:
    """A random secret of 256 bits; shown once, and kept as its `digest`."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """What is kept of a token or of the cookie of a session."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # commands that only read the index need not load it

    return PasswordHasher()  # RFC 9106's second recommendation: 64 MiB, three passes


@cache
def _nobodys_hash() -> str:
    return _hasher().hash(secrets.token_hex())
