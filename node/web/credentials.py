"""Passwords (Argon2id, RFC 9106), random tokens, and the codes of authenticator apps.

A password is hashed in the process where it is typed, so it never appears in a file or the index. A token is a random
number of 256 bits; since it cannot be guessed, a plain SHA-256 of it is enough.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from node.errors import UsageError
from node.index.rules.people.accounts import Role
from node.web.errors import Forbidden

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH = 12, 256
"""NIST SP 800-63B 3.1.1 recommends length over complexity; the maximum bounds the time of a hash."""

TOKEN_PREFIX = "vxn_"
"""Lets people and secret scanners recognise a token."""


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
"""Prefix of account names from the provider. The names that administrators give have no colon."""


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


GROUPS = {"dicomweb": ("/dicom-web", "/wado"), "rest": ("/api/v1",), "metrics": ("/metrics",)}
"""Groups of routes, with the paths of each."""


def covers(routes: Sequence[str], path: str) -> bool:
    """Return whether a token with these routes is good for a path; without routes it is good for every path."""
    paths = [path for route in routes for path in GROUPS.get(route, (route,))]
    return not routes or any(path == one or path.startswith(f"{one}/") for one in paths)


STEP_SECONDS, DIGITS = 30, 6
"""What every authenticator app can."""

SKEW = (0, -1, 1)
"""Steps beside the current one whose codes are right as well: clocks differ, and people type (RFC 6238 5.2)."""

SECRET_BYTES = 20

RECOVERY_CODES, RECOVERY_BYTES = 10, 10
"""80 bits each: a plain digest of one is enough."""


def new_secret() -> str:
    """Return a random secret of 160 bits in base32."""
    return base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode()


def step_of(secret: str, code: str, now: dt.datetime) -> int | None:
    """Return the time step in which a code is right, or None. A step is used once, so that no code is replayed."""
    typed, current = "".join(code.split()).encode("utf-8", "replace"), int(now.timestamp()) // STEP_SECONDS
    steps = [current + skew for skew in SKEW]
    matches = [step for step in steps if hmac.compare_digest(code_of(secret, step), typed)]
    return max(matches, default=None)


def code_of(secret: str, step: int) -> bytes:
    """Return the code of a time step."""
    digest = hmac.digest(base64.b32decode(secret), step.to_bytes(8, "big"), "sha1")  # apps know no other digest
    at = digest[-1] & 0xF  # RFC 4226 5.3
    number = int.from_bytes(digest[at : at + 4], "big") & 0x7FFFFFFF
    return b"%0*d" % (DIGITS, number % 10**DIGITS)


def picture_of(secret: str, account: str, issuer: str) -> str:
    """Return the QR code that an authenticator app reads, as SVG for a page; empty without the library for it."""
    try:
        import segno  # here, so that it is loaded only to set up a second factor
    except ImportError:
        return ""
    values = {"secret": secret, "issuer": issuer, "algorithm": "SHA1", "digits": DIGITS, "period": STEP_SECONDS}
    uri = f"otpauth://totp/{quote(issuer)}:{quote(account)}?{urlencode(values, quote_via=quote)}"
    picture: str = segno.make(uri, micro=False).svg_inline(scale=5, light="#fff")
    return picture


def new_recovery_codes() -> list[str]:
    """Return codes to print and keep, in groups of four letters and digits."""
    texts = (base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode().lower() for _ in range(RECOVERY_CODES))
    return ["-".join(text[at : at + 4] for at in range(0, len(text), 4)) for text in texts]


def normal(recovery_code: str) -> str:
    """Return a recovery code as `new_recovery_codes` writes it, however it was typed."""
    text = "".join(letter for letter in recovery_code.lower() if letter.isalnum())
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))
