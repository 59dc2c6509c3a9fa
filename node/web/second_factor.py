"""Codes of an authenticator app (TOTP, RFC 6238), and the recovery codes that stand for a lost one."""

from __future__ import annotations

import base64
import datetime as dt
import hmac
import secrets
from urllib.parse import quote, urlencode

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
