"""Passwords as they are checked: no faster than guesses may be, and no more at once than the machine has room for."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from node.addresses import block_of
from node.audit.audit_log import Result
from node.index.engine.scope import within
from node.index.nouns.accounts import AccountRepository, KnownAccount
from node.web.audit_trail import AuditTrail
from node.web.credentials import is_password
from node.web.errors import NotAuthenticated, TooManyTries
from node.web.guesses import Guesses, Pair

MAX_CONCURRENT_HASHES = 1
"""Argon2 takes 64 MiB and a core per password; a flood of requests must not take more."""

MAX_WAITING_HASHES = 4
"""Requests that may wait for a hash, each on one of forty threads; another is refused at once."""

HASH_WAIT_SECONDS = 3.0
"""Longest wait for a hash, and the `Retry-After` of a refused client."""

MAX_VERIFIED_PASSWORDS = 256
"""Verified passwords that are not hashed again; scripts send theirs with every request."""


class Passwords:
    """Checks passwords of accounts. Thread-safe."""

    def __init__(self, accounts: AccountRepository, trail: AuditTrail) -> None:
        self._accounts, self._trail = accounts, trail
        self._guesses, self._verified = Guesses(trail.guessed), _Verified()
        self._hashing = threading.Semaphore(MAX_CONCURRENT_HASHES)
        self._hash_places = threading.Semaphore(MAX_CONCURRENT_HASHES + MAX_WAITING_HASHES)

    @within(None)
    def check(self, name: str, password: str, address: str) -> KnownAccount:
        """Return the account with this name and password, or raise NotAuthenticated or TooManyTries."""
        pair = (name[:64], block_of(address))
        self._require_try(pair)  # also for a password that has matched: it would be guessed without a limit
        known = self._accounts.by_name(name)
        if known is not None and self.has_matched(password, known):
            return known
        # Also without such an account, so that the time does not reveal whether it exists.
        matches = self._matches(pair, password, known.password_hash if known is not None else None)
        if known is None or not matches:
            self._trail.authentication((name[:64], address), Result.MINOR_FAILURE, "wrong name or password")
            raise NotAuthenticated("the name or the password is wrong")
        self._guesses.succeeded(pair)
        return known

    def has_matched(self, password: str, known: KnownAccount) -> bool:
        """Return whether this password of the account was right before, without hashing it."""
        return known.password_hash is not None and self._verified.has(known.password_hash, password)

    def _require_try(self, pair: Pair) -> None:
        wait = self._guesses.wait_seconds(pair)
        if wait > 0:
            raise TooManyTries(wait)

    def _matches(self, pair: Pair, password: str, hashed: str | None) -> bool:
        with self._turn():
            wait = self._guesses.begin(pair)
            if wait > 0:
                raise TooManyTries(wait)
            matches = is_password(password, hashed)
        if matches and hashed is not None:
            self._verified.add(hashed, password)
        return matches

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for a turn to hash a password; a flood of tries must not occupy all threads."""
        if not self._hash_places.acquire(blocking=False):
            raise TooManyTries(HASH_WAIT_SECONDS)
        try:
            if not self._hashing.acquire(timeout=HASH_WAIT_SECONDS):
                raise TooManyTries(HASH_WAIT_SECONDS)
            try:
                yield
            finally:
                self._hashing.release()
        finally:
            self._hash_places.release()


class _Verified:
    """Matching pairs of hash and password, each stored as an HMAC with a key of this process.

    A changed password has a new hash, so the old pair no longer matches.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._pairs: OrderedDict[bytes, None] = OrderedDict()

    def has(self, password_hash: str, password: str) -> bool:
        with self._lock:
            return self._pair(password_hash, password) in self._pairs

    def add(self, password_hash: str, password: str) -> None:
        with self._lock:
            self._pairs[self._pair(password_hash, password)] = None
            if len(self._pairs) > MAX_VERIFIED_PASSWORDS:
                self._pairs.popitem(last=False)

    def _pair(self, password_hash: str, password: str) -> bytes:
        return hmac.digest(self._key, f"{password_hash}\0{password}".encode("utf-8", "replace"), sha256)
