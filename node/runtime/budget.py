"""The attack budget of a port: who gets one of its places, and who gives way. One policy for DICOM, HL7 and HTTP.

A connection begins as pending: it connects, does its TLS handshake, and sends its first request. Pending connections
hold no place, and push out each other. A connection enters a place with the first thing that identifies it (an
association, a whole message, credentials). The rules, of which `decide` and `first_pending` are the whole:

* An address (an IPv6 /64 counts as one) and a caller have a share of the places each. Those who rank lower do not count
  against the share of an address.
* Some places are reserved for those who rank high: peers that have proved who they are, or administrators.
* Without a place, somebody gives way who does not rank higher than the newcomer and has done nothing for
  `IDLE_SECONDS`: first those who rank lowest, then those without any work in `WORK_SECONDS`, then those of the address
  that has most.
* Somebody who ranks lower, or whose address has more than its even part of the places while the newcomer's has less,
  also gives way before, between two messages or in one that does not come on.
* Nobody gives way whom the node is serving, or whose message comes on at `PROGRESS_BYTES` in `IDLE_SECONDS`.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from time import monotonic
from typing import Literal, Protocol, TypeVar

import structlog
from prometheus_client import Counter as Samples

from node.runtime.metrics import Metrics
from node.runtime.network import block_of

log = structlog.get_logger()

IDLE_SECONDS = 5.0
"""Time without progress after which the holder of a place may give way."""

PROGRESS_BYTES = 16_384
"""Bytes of a message that count as progress. To keep a place, a sender needs at least 3 KB/s."""

WORK_SECONDS = 60.0
"""For how long work lets its connection stay before those without any."""

NEVER = float("-inf")

Key = TypeVar("Key")
Value = TypeVar("Value")


def remember(known: dict[Key, Value], key: Key, value: Value, maximum: int) -> None:
    """Note a value as the newest; beyond so many, the oldest is forgotten, so that a flood of keys costs no memory."""
    known.pop(key, None)
    known[key] = value
    if len(known) > maximum:
        del known[next(iter(known))]


Rule = Literal["caller", "address", "places"]
"""The share that is used up: of one caller, of one address, or all places that the newcomer may have."""


class Standing(IntEnum):
    """How far it is proved who a caller is."""

    STRANGER = 0
    PROVEN = 1
    ADMINISTRATOR = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """How many may hold a place at once.

    `reserved`: the part of `places` that is for those of `reserved_for` and above; `per_caller` does not bind
    administrators; `pending`: connections without a place.
    """

    places: int
    per_address: int
    per_caller: int
    pending: int
    reserved: int = 0
    reserved_for: Standing = Standing.PROVEN


class Holder(Protocol):
    """The connection behind a claim."""

    @property
    def is_served(self) -> bool:
        """Whether it is the node's turn: a request is being served."""

    @property
    def is_under_way(self) -> bool:
        """Whether a message has begun and is incomplete, in either direction."""

    def hang_up(self) -> None:
        """End at once. For other threads."""


class Stage(Enum):
    """The state of a connection."""

    PENDING = auto()  # holds no place: not yet, or no longer
    PLACED = auto()
    EVICTED = auto()  # asked to hang up, not closed yet


@dataclass(eq=False, slots=True)
class Claim:
    """The claim of one connection to a place.

    `address` is empty if it may stand for many clients, as that of a proxy does; `caller` if nobody is named.
    `share`: places of its caller, which then counts for no address; 0: those that `Limits` has.
    """

    holder: Holder
    address: str
    """Use `locate` to change it."""
    standing: Standing = Standing.STRANGER
    caller: str = ""
    share: int = 0
    stage: Stage = Stage.PENDING
    since: float = 0.0
    worked_at: float = NEVER
    moved_at: float = NEVER
    _bytes: int = 0
    block: str = field(init=False)

    def __post_init__(self) -> None:
        self.locate(self.address)

    def locate(self, address: str) -> None:
        """Set the address."""
        self.address, self.block = address, block_of(address)

    @property
    def last_at(self) -> float:
        """When it did something last, in monotonic seconds."""
        return max(self.since, self.worked_at, self.moved_at)

    def worked(self) -> None:
        """Note that a request was served that counts as work."""
        self.worked_at = monotonic()

    def moved(self, count: int) -> None:
        """Record how many bytes of a message came or went."""
        self._bytes += count
        if self._bytes >= PROGRESS_BYTES:
            self._bytes, self.moved_at = 0, monotonic()


def first_pending(pending: Sequence[Claim]) -> Claim:
    """Return the pending connection that gives way: of the lowest standing, the address that has most, the oldest."""
    count = Counter(claim.block for claim in pending)
    return min(pending, key=lambda claim: (claim.standing, -count[claim.block], claim.since))


def decide(newcomer: Claim, placed: Sequence[Claim], limits: Limits, now: float) -> Claim | Rule | None:
    """Decide on a place: return None if one is free, the claim that gives way, or the rule that refuses.

    `placed`: those who hold a place; `now`: monotonic seconds.
    """
    candidates, rule = _contested(newcomer, placed, limits)
    if rule is None:
        return None
    block, count = newcomer.block, Counter(claim.block for claim in candidates)
    even = len(candidates) // len({*count, block})

    def may_give_way(claim: Claim) -> bool:
        if claim.standing > newcomer.standing or claim.holder.is_served:
            return False
        if now - claim.last_at >= IDLE_SECONDS:
            return True
        if claim.holder.is_under_way and now - claim.moved_at < IDLE_SECONDS:
            return False
        is_greedy = count[claim.block] > even > count[block]
        return claim.standing < newcomer.standing or is_greedy

    def order(claim: Claim) -> tuple[float, ...]:
        has_worked = now - max(claim.worked_at, claim.moved_at) < WORK_SECONDS
        return claim.standing, has_worked, -count[claim.block], claim.last_at

    return min(filter(may_give_way, candidates), key=order, default=rule)


def _contested(newcomer: Claim, placed: Sequence[Claim], limits: Limits) -> tuple[Sequence[Claim], Rule | None]:
    """Return the places of which the newcomer needs one, and the rule that lets it have no other."""
    rule: Rule | None = None
    candidates = placed
    if len(placed) >= limits.places:
        rule = "places"
    if newcomer.standing < limits.reserved_for:
        low = [claim for claim in placed if claim.standing < limits.reserved_for]
        if len(low) >= limits.places - limits.reserved:
            rule, candidates = "places", low
    block, standing = newcomer.block, newcomer.standing
    of_address = {one for one in placed if one.block == block and one.standing >= standing and not one.share}
    if block and not newcomer.share and len(of_address) >= limits.per_address:
        rule, candidates = "address", [claim for claim in candidates if claim in of_address]
    of_caller = {claim for claim in placed if claim.caller == newcomer.caller}
    is_bound = newcomer.caller and newcomer.standing < Standing.ADMINISTRATOR
    if is_bound and len(of_caller) >= (newcomer.share or limits.per_caller):
        rule, candidates = "caller", [claim for claim in candidates if claim in of_caller]
    return candidates, rule


class Budget:
    """The connections of one port. Thread-safe; holders are asked to hang up outside the lock."""

    def __init__(
        self,
        port: Literal["dicom", "hl7", "web", "events"],
        limits: Limits,
        metrics: Metrics,
        on_eviction: Callable[[Claim, Stage], None] = lambda claim, stage: None,
    ) -> None:
        self._port, self.limits, self._metrics, self._on_eviction = port, limits, metrics, on_eviction
        self._claims: dict[Claim, None] = {}
        self._changed = threading.Condition()

    def connect(self, claim: Claim) -> None:
        """Register a connection; beyond the limit of pending ones, one gives way."""
        evicted = None
        with self._changed:
            pending = self._of(Stage.PENDING)
            if len(pending) >= self.limits.pending:
                evicted = first_pending(pending)
                evicted.stage = Stage.EVICTED
            claim.since = monotonic()
            self._claims[claim] = None
        if evicted is not None:
            self._evict(evicted, Stage.PENDING, "pending")

    def enter(self, claim: Claim) -> Rule | None:
        """Give a pending connection a place; return the rule if there is none for it."""
        evicted = None
        with self._changed:
            if claim.stage is Stage.EVICTED:
                return "places"
            now = monotonic()
            decision = decide(claim, self._of(Stage.PLACED), self.limits, now)
            if isinstance(decision, Claim):
                evicted, decision.stage = decision, Stage.EVICTED
            elif decision is not None:
                self._count(self._metrics.refused_connections, "connection_refused", claim, decision)
                return decision
            claim.stage, claim.since = Stage.PLACED, now
            claim.worked_at = claim.moved_at = NEVER
            self._claims[claim] = None
        if evicted is not None:
            self._evict(evicted, Stage.PLACED, "places")
        return None

    def leave(self, claim: Claim) -> None:
        """Take the place of a connection back; it is pending again."""
        with self._changed:
            if claim.stage is Stage.PLACED:
                claim.stage, claim.since = Stage.PENDING, monotonic()

    def remove(self, claim: Claim) -> None:
        """Forget a closed connection."""
        with self._changed:
            self._claims.pop(claim, None)
            self._changed.notify_all()

    def all(self) -> list[Claim]:
        """Return the connections, in the order in which they came."""
        with self._changed:
            return list(self._claims)

    def count(self, stage: Stage | None = None) -> int:
        """Return the number of connections, or of those in one stage."""
        with self._changed:
            return len(self._claims) if stage is None else len(self._of(stage))

    def hang_up(self) -> None:
        """End every connection at once."""
        for claim in self.all():
            claim.holder.hang_up()

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until no connection is left; False if `seconds` pass first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._claims, seconds)

    def _of(self, stage: Stage) -> list[Claim]:
        return [claim for claim in self._claims if claim.stage is stage]

    def _evict(self, claim: Claim, stage: Stage, rule: str) -> None:
        self._count(self._metrics.evicted_connections, "connection_evicted", claim, rule)
        claim.holder.hang_up()
        self._on_eviction(claim, stage)

    def _count(self, counter: Samples, event: str, claim: Claim, rule: str) -> None:
        counter.labels(port=self._port, rule=rule).inc()
        log.warning(event, service=self._port, address=claim.address, reason=rule, is_refusal=True)


@dataclass(eq=False, slots=True)
class Caller:
    """Who asks for what a request or an operation does; empty: the node itself. `gone` is set once nobody waits."""

    name: str = ""
    is_administrator: bool = False
    gone: threading.Event = field(default_factory=threading.Event)


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller:
    """Return the caller of this context, which the threads of a request share."""
    return _caller.get() or Caller()


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """Work for a caller until this is left, also in threads that begin with a copy of the context."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


class Turns:
    """Turns for work that lies behind the places of a port: searches, decoding. Thread-safe.

    A caller may use every turn that nobody else wants. Of those that wait, who has the fewest is next. Whoever has none
    gets one beyond `at_once`, and an administrator another, so nobody waits until the work of somebody else ends. A
    caller, other than the node itself, has at most half of the places to wait; the first always has one.
    """

    def __init__(self, at_once: int, waiting: int, refusal: Callable[[], Exception]) -> None:
        self._at_once, self._waiting, self._refusal = at_once, waiting, refusal
        self._changed = threading.Condition()
        self._running: Counter[str] = Counter()
        self._held: Counter[str] = Counter()  # waiting or running
        self._queue: list[Caller] = []

    @contextmanager
    def turn(self, caller: Caller, seconds: float, before: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Wait for a turn, at most so many seconds; `before` is called once there is a place to wait.

        Raises what `refusal` returns if the caller has no place to wait left, or waited too long.
        """
        with self._changed:
            held, total = self._held[caller.name], sum(self._held.values())
            share = self._at_once + (-(-self._waiting // 2) if caller.name else self._waiting)
            if held and (held >= share or total >= self._at_once + self._waiting):
                raise self._refusal()
            self._held[caller.name] += 1
        try:
            before()
            self._wait(Caller(caller.name, caller.is_administrator), seconds)
            try:
                yield
            finally:
                self._end(self._running, caller.name)
        finally:
            self._end(self._held, caller.name)

    def _wait(self, ticket: Caller, seconds: float) -> None:
        with self._changed:
            self._queue.append(ticket)
            try:
                if not self._changed.wait_for(lambda: self._next() is ticket, max(0.0, seconds)):
                    raise self._refusal()
                self._running[ticket.name] += 1
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _next(self) -> Caller | None:
        able = [ticket for ticket in self._queue if self._has_turn(ticket)]
        return min(able, key=lambda ticket: self._running[ticket.name], default=None)

    def _has_turn(self, ticket: Caller) -> bool:
        beyond = 0 if self._running[ticket.name] else 1 + ticket.is_administrator
        return sum(self._running.values()) < self._at_once + beyond

    def _end(self, counted: Counter[str], name: str) -> None:
        with self._changed:
            counted[name] -= 1
            if not counted[name]:
                del counted[name]
            self._changed.notify_all()
