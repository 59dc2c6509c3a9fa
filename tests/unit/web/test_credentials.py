"""Passwords, tokens, names."""

import pytest

from node.errors import UsageError
from node.extensions.administration.names import require_name
from node.web.credentials import MAX_PASSWORD_LENGTH, digest, hash_password, is_password, new_token


@pytest.mark.slow
def test_a_password_fits_its_own_hash_only() -> None:
    hashed = hash_password("correct horse battery")
    assert hashed.startswith("$argon2id$")
    assert ",p=1$" in hashed, "each lane takes a processor"
    assert "correct" not in hashed
    assert is_password("correct horse battery", hashed)
    assert not is_password("correct horse batterY", hashed)
    assert not is_password("correct horse battery", "damaged")
    assert not is_password("correct horse battery", None)
    assert not is_password("x" * 10_000_000, hashed)


@pytest.mark.parametrize("password", ["", "eleven char", "x" * (MAX_PASSWORD_LENGTH + 1)])
def test_a_password_that_is_too_short_or_too_long_is_refused_without_quoting_it(password: str) -> None:
    with pytest.raises(UsageError) as reported:
        hash_password(password)
    assert not password or password not in str(reported.value)


def test_tokens_are_random_and_long() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(len(token) for token in tokens) >= 43
    assert len(digest("\udcff")) == 64


@pytest.mark.parametrize("name", ["anna", "A.b_c@example.org", "7", "x" * 64])
def test_a_name_is_taken(name: str) -> None:
    assert require_name(name) == name


@pytest.mark.parametrize("name", ["", " anna", "an na", "-a", "x" * 65, "a\n", "a:b", "ä", "<b>"])
def test_a_name_that_could_be_mistaken_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not a valid account name"):
        require_name(name)
