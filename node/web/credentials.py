"""Passwords (Argon2id, RFC 9106), random tokens, and the names of accounts.

A password is hashed in the process where it is typed, so it never appears in a file or the index. A token is a random
number of 256 bits; since it cannot be guessed, a plain SHA-256 of it is enough.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from node.errors import UsageError
from node.index.nouns.accounts import Role
from node.web.errors import Forbidden

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH = 12, 256
"""NIST SP 800-63B 3.1.1 recommends length over complexity; the maximum bounds the time of a hash."""

TOKEN_PREFIX = "vxn_"
"""Lets people and secret scanners recognise a token."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def require_name(name: str) -> str:
    """Return `name` if it is a valid account name, else raise UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid account name: use 1 to 64 letters, digits and . _ @ -, "
            "and begin with a letter or digit"
        )
    return name


def hash_password(password: str) -> str:
    """Return the Argon2id hash of a new password; the error for one of a wrong length does not quote it."""
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise UsageError(
            f"a password must have {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters, not {len(password)}; "
            "several words are easier to remember than special characters"
        )
    return _hasher().hash(password)


def is_password(password: str, password_hash: str | None) -> bool:
    """Return whether a password matches a hash. Without a hash it takes the same time, so the time reveals nothing."""
    from argon2.exceptions import Argon2Error, InvalidHashError

    if len(password) > MAX_PASSWORD_LENGTH:
        return False
    try:
        return _hasher().verify(password_hash or _nobodys_hash(), password) and password_hash is not None
    except (Argon2Error, InvalidHashError):
        return False


def new_token() -> str:
    """Return a random secret of 256 bits; it is shown once and stored as its `digest`."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """Return the SHA-256 under which a token or a session cookie is stored."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # here, so that commands that only read the index do not load it

    # RFC 9106's second recommendation, 64 MiB and three passes, but in one lane: each lane takes a processor.
    return PasswordHasher(parallelism=1)


@cache
def _nobodys_hash() -> str:
    return _hasher().hash(secrets.token_hex())


SIGN_IN_SECONDS = 600
"""Time limit of a sign-in at the provider."""

PREFIX = "oidc:"
"""Prefix of account names from the provider. Our own names have no colon (`credentials.require_name`)."""


@dataclass(frozen=True, slots=True)
class FederatedIdentity:
    """The name of an account, with `PREFIX`, and its role according to the provider; None: no access.

    `groups`: those that it is in, as members of projects.
    """

    name: str
    role: Role | None
    groups: tuple[str, ...] = ()


def no_role(identity: FederatedIdentity) -> Forbidden:
    """Return the refusal of a user to whom the identity provider grants no role."""
    return Forbidden(
        f"The identity provider knows you as {identity.name.removeprefix(PREFIX)}, but grants you no role here. "
        "Ask an administrator for one of the roles or groups in [web.oidc] read, write or admin."
    )
