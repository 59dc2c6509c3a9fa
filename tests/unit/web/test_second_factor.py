"""Codes of authenticator apps: the test vectors of RFC 6238."""

import base64

import pytest

from node.web.credentials import STEP_SECONDS, code_of

SECRET = base64.b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (59, b"287082"),
        (1111111109, b"081804"),
        (1111111111, b"050471"),
        (1234567890, b"005924"),
        (2000000000, b"279037"),
        (20000000000, b"353130"),
    ],
)
def test_codes_are_those_of_the_standard(seconds: int, code: bytes) -> None:
    assert code_of(SECRET, seconds // STEP_SECONDS) == code
