"""Limits on guessing passwords: by account and address together, by address, and by account.

Each pair of account and address has a few tries. An address has more for all accounts together, since many people may
share it, and an account has as many from all addresses together, so that more addresses do not guess more. Only the
first limit holds where an account has been used before: guesses from elsewhere lock nobody out there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

MAX_WAIT_SECONDS = 300.0
FORGET_SECONDS = 3600.0
MAX_KEYS = 10_000
"""Number of keys remembered; beyond it, the oldest failure is forgotten, so that a flood of keys costs no memory."""


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float


class Throttle:
    """Counts failures by key, such as an address; its user holds a lock.

    After `free_tries` failures in a row, tries wait: the next one second, then two, and so on up to `MAX_WAIT_SECONDS`.
    The library `limits` is unsuitable: its windows have no doubling wait, and its memory storage uses the wall clock,
    which may be set back, and keeps an unlimited number of keys.
    """

    def __init__(self, free_tries: int, clock: Callable[[], float] = monotonic) -> None:
        self._free_tries, self._clock = free_tries, clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait_seconds(self, key: str) -> float:
        """Return the seconds until the next try is allowed, or 0 if it is allowed now."""
        failures = self._failures.get(key)
        if failures is None or failures.count < self._free_tries:
            return 0.0
        doublings = min(failures.count - self._free_tries, 60)
        return max(0.0, failures.last_at + min(MAX_WAIT_SECONDS, 2.0**doublings) - self._clock())

    def count(self, key: str) -> None:
        """Count a failure."""
        now, known = self._clock(), self._failures.pop(key, None)
        count = known.count + 1 if known is not None and now - known.last_at < FORGET_SECONDS else 1
        self._failures[key] = _Failures(count, now)
        if len(self._failures) > MAX_KEYS:
            self._failures.popitem(last=False)

    def forgive(self, key: str, count: int | None = None) -> int:
        """Forget `count` failures of a key, or all; return how many were forgotten."""
        known = self._failures.get(key)
        if known is None:
            return 0
        forgiven = known.count if count is None else min(count, known.count)
        known.count -= forgiven
        if not known.count:
            del self._failures[key]
        return forgiven


FREE_TRIES = 5
"""Failures in a row of one account at one address without a wait, since people mistype."""

FREE_TRIES_OF_ADDRESS = 20
FREE_TRIES_OF_ACCOUNT = 20
"""Failures without a wait at one address, and of one account where it has not been used before. NIST SP 800-63B 3.2.2
allows 100."""

MAX_USED = 10_000
"""Pairs of account and address to remember."""

MAX_ADDRESSES = 1000
"""Addresses to remember for alerts; beyond it, they are only counted up to here."""

Pair = tuple[str, str]
"""An account name, known or not, and an address or IPv6 network."""


class Guesses:
    """Counts wrong passwords. Thread-safe.

    A try counts as a failure until it succeeds, so that concurrent tries are limited like successive ones. A success
    forgives the failures of its pair only: a login with an account of one's own does not pay for guesses at others.
    `on_limit` is called with a sentence when a try is refused by the limit of an account or an address, and with that
    account or address; the other one is empty.
    """

    def __init__(self, on_limit: Callable[[str, Pair], None]) -> None:
        self._on_limit = on_limit
        self._lock = threading.Lock()
        self._by_pair = Throttle(FREE_TRIES)
        self._by_address = Throttle(FREE_TRIES_OF_ADDRESS)
        self._by_account = Throttle(FREE_TRIES_OF_ACCOUNT)
        self._used: OrderedDict[Pair, None] = OrderedDict()
        self._addresses: OrderedDict[str, set[str]] = OrderedDict()

    def wait_seconds(self, pair: Pair) -> float:
        """Return the seconds until the next try of a pair is allowed, or 0 if it is allowed now."""
        with self._lock:
            seconds, alert = self._refusal(pair)
        if alert is not None:
            self._on_limit(*alert)
        return seconds

    def begin(self, pair: Pair) -> float:
        """Begin a try; return the seconds to wait if it is refused."""
        account, address = pair
        with self._lock:
            seconds, alert = self._refusal(pair)
            if seconds <= 0:
                self._by_pair.count(_key(pair))
                self._by_address.count(address)
                self._by_account.count(account)
                self._note_address(pair)
        if alert is not None:
            self._on_limit(*alert)
        return seconds

    def succeeded(self, pair: Pair) -> None:
        """Forgive the failures of a pair, and remember that its account is used at its address."""
        account, address = pair
        with self._lock:
            forgiven = self._by_pair.forgive(_key(pair))
            self._by_address.forgive(address, forgiven)
            self._by_account.forgive(account, forgiven)
            self._used.pop(pair, None)
            self._used[pair] = None
            if len(self._used) > MAX_USED:
                self._used.popitem(last=False)

    def _refusal(self, pair: Pair) -> tuple[float, tuple[str, Pair] | None]:
        """Return the seconds to wait, and what `on_limit` is called with."""
        account, address = pair
        of_pair = self._by_pair.wait_seconds(_key(pair))
        if of_pair > 0 or pair in self._used:
            return of_pair, None
        of_account, of_address = self._by_account.wait_seconds(account), self._by_address.wait_seconds(address)
        if of_account > 0:
            addresses = len(self._addresses.get(account, ()))
            sentence = f"the password of the account is guessed, from {addresses} addresses"
            return max(of_account, of_address), (sentence, (account, ""))
        if of_address > 0:
            return of_address, ("passwords of many accounts are guessed from the address", ("", address))
        return 0.0, None

    def _note_address(self, pair: Pair) -> None:
        account, address = pair
        addresses = self._addresses.pop(account, set())
        if len(addresses) < MAX_ADDRESSES:
            addresses.add(address)
        self._addresses[account] = addresses
        if len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)


def _key(pair: Pair) -> str:
    return "\0".join(pair)
