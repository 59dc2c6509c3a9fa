"""Signing in and out with a browser: passwords, second factors, the identity provider, and the sessions they open."""

import datetime as dt
import hmac
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from time import monotonic

from starlette.requests import HTTPConnection

from node.audit.audit_log import EventType, Result
from node.index.rows.records import Client
from node.index.rows.scope import within
from node.index.rules.people.accounts import AccountRepository, KnownAccount, KnownSession, Role
from node.runtime.budget import Caller, Turns, remember
from node.runtime.network import block_of
from node.settings.core import Web
from node.web.audit_trail import AuditTrail
from node.web.credentials import (
    PREFIX,
    FederatedIdentity,
    digest,
    is_password,
    new_recovery_codes,
    new_secret,
    new_token,
    no_role,
    normal,
    step_of,
)
from node.web.errors import NotAuthenticated, TooManyTries
from node.web.principal import address_of, session_cookie

FACTOR_TIME = dt.timedelta(minutes=10)
"""In which the second factor must follow the password."""

Pair = tuple[str, str]
"""An account name, known or not, and an address or IPv6 network."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The cookie of a session after the second factor, and recovery codes if it was just set up."""

    value: str
    recovery_codes: tuple[str, ...]


class Sessions:
    """Opens, finds and ends sessions of accounts. Thread-safe."""

    def __init__(self, web: Web, accounts: AccountRepository, trail: AuditTrail) -> None:
        self._web, self.accounts, self.trail = web, accounts, trail
        self.now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
        self.passwords = Passwords(accounts, trail)
        self._codes = Guesses(trail.guessed)
        self.time = dt.timedelta(hours=web.session_hours)

    @within(None)
    def log_in(self, name: str, password: str, address: str, agent: str = "") -> str:
        """Open a session and return the value of its cookie. Raises the same exceptions as `Passwords.check`."""
        known = self.passwords.check(name, password, address)
        if self.needs_factor(known):
            if not known.has_factor:
                self.begin_factor(known)
            detail = "the right password: the second factor is to follow"
            self.trail.authentication((name, address), Result.SUCCESS, detail)
            return self._open(known, Client(address, agent), FACTOR_TIME, has_factor=False)
        value = self._open(known, Client(address, agent))
        self.trail.authentication((name, address), Result.SUCCESS, "Login")
        return value

    @within(None)
    def log_in_as(self, identity: FederatedIdentity, address: str, agent: str = "") -> str:
        """Open a session for a user of the identity provider; return the value of its cookie.

        The account has no password, and has the role and the groups that the provider says now. If these have changed,
        existing sessions of the account end, so that successive users of one name never get each other's role. If the
        provider grants no role, the account is removed with its sessions and tokens, and Forbidden is raised.
        """
        name, known = identity.name, self.accounts.by_name(identity.name)
        if identity.role is None:
            if known is not None:
                self.accounts.remove(name)
            self.trail.authentication((name, address), Result.MINOR_FAILURE, "no role by OpenID Connect")
            raise no_role(identity)
        now = identity.role, identity.groups, None
        if known is None or (known.role, known.groups, known.password_hash) != now:
            self.accounts.set(name, identity.role, None, self.now(), identity.groups)
            known = self.accounts.by_name(name)
        if known is None:
            raise NotAuthenticated("the account was removed meanwhile")
        value = self._open(known, Client(address, agent))
        self.trail.authentication((name, address), Result.SUCCESS, "Login by OpenID Connect")
        return value

    @within(None)
    def log_out(self, request: HTTPConnection) -> str:
        """End the session of a browser, if it has one; return the name of its account or an empty string."""
        value = session_cookie(request)
        session = self.accounts.by_session(digest(value), self.now()) if value else None
        if session is None:
            return ""
        name = session.account.name
        self.accounts.close_session(digest(value))
        self.trail.authentication((name, address_of(request)), Result.SUCCESS, "Logout", kind=EventType.LOGOUT)
        return name

    @within(None)
    def end(self, value: str) -> None:
        """End the session of a cookie, such as that of a password whose second factor has come."""
        self.accounts.close_session(digest(value))

    def valid(self, value: str) -> KnownSession | None:
        """Return the session of a cookie, or None if it has ended or still waits for its second factor."""
        session = self.accounts.by_session(digest(value), self.now())
        if session is None or session.has_factor is False:
            return None
        is_demanded_since = self.needs_factor(session.account) and not session.has_factor
        return None if is_demanded_since else session

    @within(None)
    def awaiting_factor(self, value: str) -> KnownAccount | None:
        """Return the account of a session that waits for its second factor and is good for nothing else, or None."""
        session = self.accounts.by_session(digest(value), self.now()) if value else None
        if session is None or session.has_factor is not False or not self.needs_factor(session.account):
            return None
        return session.account

    @within(None)
    def begin_factor(self, known: KnownAccount) -> None:
        """Give an account without an authenticator app the secret of one; the first right code will set it up."""
        self.accounts.begin_factor(known.id, new_secret())

    @within(None)
    def give_code(self, known: KnownAccount, code: str, client: Client) -> Passed:
        """Open a session for an account whose password was right, by a code of its app or a recovery code.

        The first code of a new secret sets the app up, and ends all other sessions: recovery codes are returned. Raises
        NotAuthenticated if the code is wrong or was used before, and TooManyTries.
        """
        codes = () if known.has_factor else tuple(new_recovery_codes())
        what = self._accepted(known, code, client.address, codes)
        value = self._open(known, client, has_factor=True)
        self.trail.authentication((known.name, client.address), Result.SUCCESS, f"Login with a second factor: {what}")
        return Passed(value, codes)

    @within(None)
    def check_code(self, known: KnownAccount, code: str, address: str) -> None:
        """Use up a code of the app or a recovery code. Raises the same exceptions as `give_code`."""
        self._accepted(known, code, address, ())

    def demands_factor(self, known: KnownAccount) -> bool:
        """Return whether [web] second_factor demands one of an account; the identity provider has its own."""
        demanded = self._web.second_factor
        is_of_provider = known.name.startswith(PREFIX)
        return not is_of_provider and (demanded == "all" or (demanded == "admin" and known.role is Role.ADMIN))

    def needs_factor(self, known: KnownAccount) -> bool:
        """Return whether a password alone opens nothing of an account."""
        return known.has_factor or self.demands_factor(known)

    def _accepted(self, known: KnownAccount, code: str, address: str, new_codes: tuple[str, ...]) -> str:
        """Return what a right code was; `new_codes` are the recovery codes of an app that it sets up."""
        pair = known.name, block_of(address)
        self._codes.require_try(pair)
        what = self._use_code(known, code, [digest(one) for one in new_codes])
        if not what:
            wrong = "the code is wrong, or was used before: wait for the next one"
            self.trail.authentication((known.name, address), Result.MINOR_FAILURE, f"wrong second factor: {wrong}")
            raise NotAuthenticated(wrong)
        self._codes.succeeded(pair)
        return what

    def _use_code(self, known: KnownAccount, code: str, new_codes: Sequence[str]) -> str:
        secret = known.totp_secret
        step = step_of(secret, code, self.now()) if secret else None
        if not known.has_factor:
            is_first = step is not None and self.accounts.confirm_factor(known.id, secret or "", step, new_codes)
            return "new app" if is_first else ""
        if step is not None and self.accounts.use_step(known.id, step):
            return "code of the app"
        return "recovery code" if self.accounts.use_recovery_code(known.id, digest(normal(code))) else ""

    def _open(
        self, known: KnownAccount, client: Client, time: dt.timedelta | None = None, *, has_factor: bool | None = None
    ) -> str:
        value, now = new_token(), self.now()
        end = now + (time or self.time)
        self.accounts.open_session(known.id, digest(value), end, now, client, has_factor=has_factor)
        return value


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
        wait = partial(TooManyTries, HASH_WAIT_SECONDS)
        self._turns = Turns(MAX_CONCURRENT_HASHES, MAX_WAITING_HASHES, wait)  # all are of one caller: nobody is known

    @within(None)
    def check(self, name: str, password: str, address: str) -> KnownAccount:
        """Return the account with this name and password, or raise NotAuthenticated or TooManyTries."""
        pair = (name[:64], block_of(address))
        # Also for a password that has matched: it would be guessed without a limit.
        self._guesses.require_try(pair, counts=False)
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

    def _matches(self, pair: Pair, password: str, hashed: str | None) -> bool:
        with self._turns.turn(Caller(), HASH_WAIT_SECONDS):
            self._guesses.require_try(pair)
            matches = is_password(password, hashed)
        if matches and hashed is not None:
            self._verified.add(hashed, password)
        return matches


class _Verified:
    """Matching pairs of hash and password, each stored as an HMAC with a key of this process.

    A changed password has a new hash, so the old pair no longer matches.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._pairs: dict[bytes, None] = {}

    def has(self, password_hash: str, password: str) -> bool:
        with self._lock:
            return self._pair(password_hash, password) in self._pairs

    def add(self, password_hash: str, password: str) -> None:
        with self._lock:
            remember(self._pairs, self._pair(password_hash, password), None, MAX_VERIFIED_PASSWORDS)

    def _pair(self, password_hash: str, password: str) -> bytes:
        return hmac.digest(self._key, f"{password_hash}\0{password}".encode("utf-8", "replace"), sha256)


MAX_WAIT_SECONDS = 300.0
FORGET_SECONDS = 3600.0
MAX_KEYS = 10_000
"""Number of keys remembered; beyond it, the oldest failure is forgotten, so that a flood of keys costs no memory."""


class Throttle:
    """Counts failures by key, such as an address; its user holds a lock.

    After `free_tries` failures in a row, tries wait: the next one second, then two, and so on up to `MAX_WAIT_SECONDS`.
    The library `limits` is unsuitable: its windows have no doubling wait, and its memory storage uses the wall clock,
    which may be set back, and keeps an unlimited number of keys.
    """

    def __init__(self, free_tries: int, clock: Callable[[], float] = monotonic) -> None:
        self._free_tries, self._clock = free_tries, clock
        self._failures: dict[str, tuple[int, float]] = {}  # how many, and when the last one was

    def wait_seconds(self, key: str) -> float:
        """Return the seconds until the next try is allowed, or 0 if it is allowed now."""
        count, last_at = self._failures.get(key, (0, 0.0))
        if count < self._free_tries:
            return 0.0
        doublings = min(count - self._free_tries, 60)
        return max(0.0, last_at + min(MAX_WAIT_SECONDS, 2.0**doublings) - self._clock())

    def count(self, key: str) -> None:
        """Count a failure."""
        now, (count, last_at) = self._clock(), self._failures.get(key, (0, 0.0))
        remember(self._failures, key, (count + 1 if now - last_at < FORGET_SECONDS else 1, now), MAX_KEYS)

    def forgive(self, key: str, count: int | None = None) -> int:
        """Forget `count` failures of a key, or all; return how many were forgotten."""
        known, last_at = self._failures.get(key, (0, 0.0))
        forgiven = known if count is None else min(count, known)
        if forgiven < known:
            self._failures[key] = known - forgiven, last_at
        else:
            self._failures.pop(key, None)
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
        self._used: dict[Pair, None] = {}
        self._addresses: dict[str, set[str]] = {}

    def require_try(self, pair: Pair, *, counts: bool = True) -> None:
        """Begin a try of a pair, or only ask for one, or raise TooManyTries."""
        account, address = pair
        with self._lock:
            seconds, alert = self._refusal(pair)
            if counts and seconds <= 0:
                self._by_pair.count(_key(pair))
                self._by_address.count(address)
                self._by_account.count(account)
                self._note_address(pair)
        if alert is not None:
            self._on_limit(*alert)
        if seconds > 0:
            raise TooManyTries(seconds)

    def succeeded(self, pair: Pair) -> None:
        """Forgive the failures of a pair, and remember that its account is used at its address."""
        account, address = pair
        with self._lock:
            forgiven = self._by_pair.forgive(_key(pair))
            self._by_address.forgive(address, forgiven)
            self._by_account.forgive(account, forgiven)
            remember(self._used, pair, None, MAX_USED)

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
        addresses = self._addresses.get(account, set())
        if len(addresses) < MAX_ADDRESSES:
            addresses.add(address)
        remember(self._addresses, account, addresses, MAX_ADDRESSES)


def _key(pair: Pair) -> str:
    return "\0".join(pair)
