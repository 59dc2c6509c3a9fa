"""One step of a destination: what its due messages ask for, what became of each instance, and so of each message.

A step holds no connection, no row and no file, and is thrown away at its end. `outcome_of` decides by nothing but what
a message asks for and what became of that.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from node.index.rows.converted import SeriesKey
from node.index.rows.states import Outcome
from node.index.rules.work.messages import UNWANTED, PendingEvent
from node.index.rules.work.routes import DueInstance
from node.routing.destination import NotTaken

GROUP_INSTANCES = 1000
"""Instances beyond which no further message joins those that are sent together."""

InstanceKey = tuple[int, str]
"""Row and digest of an instance: other bytes of it are sent again."""

RETURN = "it came from there"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a message asks for: the instances that the route wants, and those of them that are not sent yet.

    `is_return`: all instances came from the destination, to which the route sends nothing back.
    """

    pending: PendingEvent
    dues: Sequence[DueInstance]
    wanted: Sequence[DueInstance]
    left: Sequence[DueInstance]
    is_return: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """A message has ended.

    `attempts`: of this step: 1, or 0 if nothing was tried.
    """

    outcome: Outcome
    attempts: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt of a message failed.

    `counts`: whether the attempts before it count. A message that gets on begins anew: a connection that often breaks
        costs a long series many attempts.
    `is_final`: no further attempt would succeed.
    `damaged`: the keys of files that are not as they were received.
    """

    reason: str
    counts: bool = True
    is_final: bool = False
    damaged: tuple[str, ...] = ()


def outcome_of(
    asked: Asked, tried: Sequence[NotTaken | None], is_cut: bool, cancelled_by: str | None, is_all_taken: bool
) -> Done | Failed | None:
    """Return what became of a message; None if it is not known, because the step was cut short.

    `tried`: what became of those instances of `asked.left` that were tried; None: taken. `is_cut`: the step ended
    before everything that it asked for was tried. `cancelled_by`: who wants the message to end. `is_all_taken`: the
    destination has taken everything that the route wants, now or before.
    """
    if cancelled_by is not None and not is_all_taken:
        return Done("cancelled", 1, f"cancelled by {cancelled_by}")
    if not asked.dues:
        return Done("dropped", 0, "the object was deleted")
    if not asked.wanted:
        return Done("dropped", 0, RETURN if asked.is_return else UNWANTED[1])
    if not asked.left:
        return Done("succeeded", 0)
    problems = [problem for problem in tried if problem is not None]
    is_whole = len(tried) == len(asked.left)
    if not is_whole and is_cut:
        return None
    if is_whole and not problems:
        return Done("succeeded", 1)
    counts = len(tried) == len(problems)
    if not problems:
        return Failed("an earlier instance of its series was not taken", counts)
    is_final = is_whole and all(problem.is_final for problem in problems)
    number = f"{len(problems)} of {len(asked.wanted)} instances were not taken: " if len(asked.wanted) > 1 else ""
    damaged = tuple(problem.damaged for problem in problems if problem.damaged is not None)
    return Failed(f"{number}{problems[0]}", counts, is_final, damaged)


@dataclass(slots=True)
class RouteStep:
    """The messages of one step, and what became of the instances that they ask for.

    An instance that is not taken now keeps the later ones of its series back, unless its message is attempted for the
    last time and has not got on.

    `cancelled_by`: who wants which messages to end, by their ids.
    `is_cut`: the step ended before everything that it asked for was tried.
    `shown`: how many instances were taken, by the ids of the messages whose rows say so.
    """

    cancelled_by: Mapping[str, str] = field(default_factory=dict)
    is_cut: bool = False
    shown: dict[str, int] = field(default_factory=dict)
    _queue: deque[PendingEvent] = field(default_factory=deque)  # messages that were not sent with others yet
    _asked: dict[str, Asked] = field(default_factory=dict)  # by the messages that were
    _tried: dict[InstanceKey, NotTaken | None] = field(default_factory=dict)
    _held_back: set[SeriesKey] = field(default_factory=set)
    _skipped: set[InstanceKey] = field(default_factory=set)  # instances that only cancelled messages ask for
    _last_of: dict[int, str] = field(default_factory=dict)  # messages attempted for the last time, by rows of instances
    _got_on: set[str] = field(default_factory=set)  # messages of those of which an instance was taken

    def queue(self, messages: Iterable[PendingEvent]) -> None:
        """Add messages that are due, in their order."""
        self._queue.extend(messages)

    @property
    def of_single_instances(self) -> list[PendingEvent]:
        """The queued messages of single instances."""
        return [one for one in self._queue if one.sop_instance_uid is not None]

    def is_asked(self, message_id: str) -> bool:
        """Return whether a message was sent with others, or found to ask for nothing."""
        return message_id in self._asked

    def join(self, first: PendingEvent, ask: Callable[[PendingEvent], Asked], attempts: int) -> list[DueInstance]:
        """Return what a message and those behind it ask for, as far as it is not sent and goes together.

        `attempts`: that a message has.
        """
        left: dict[InstanceKey, DueInstance] = {}
        self._last_of = {}
        while self._queue and len(left) < GROUP_INSTANCES:
            pending = self._queue.popleft()
            if first.message_id not in self._asked and pending is not first:
                continue  # it waits: an earlier message of its study failed
            asked = self._asked[pending.message_id] = ask(pending)
            left |= {key_of(due): due for due in asked.left if key_of(due) not in left}
            if pending.attempts + 1 >= attempts:
                self._last_of |= {due.image_id: pending.message_id for due in asked.left}
        return list(left.values())

    def is_taken(self, due: DueInstance) -> bool:
        """Return whether an instance was taken in this step."""
        return key_of(due) in self._tried and self._tried[key_of(due)] is None

    def is_held_back(self, due: DueInstance) -> bool:
        """Return whether an instance is not to be sent now."""
        return series_of(due) in self._held_back or key_of(due) in self._skipped

    def is_last(self, due: DueInstance) -> bool:
        """Return whether the message of an instance is given up if the instance is not taken."""
        message_id = self._last_of.get(due.image_id)
        return message_id is not None and message_id not in self._got_on

    def note_taken(self, due: DueInstance) -> None:
        """Note that the destination has taken an instance."""
        self._tried[key_of(due)] = None
        if due.image_id in self._last_of:
            self._got_on.add(self._last_of[due.image_id])

    def note_problem(self, due: DueInstance, problem: NotTaken, *, is_last: bool) -> bool:
        """Note why an instance was not taken; return whether its message is given up for it."""
        self._tried[key_of(due)] = problem
        is_given_up = problem.is_final or is_last
        if not is_given_up:
            self._held_back.add(series_of(due))
        return is_given_up

    def note_problems(self, dues: Iterable[DueInstance], problem: NotTaken) -> None:
        """Note why instances were not taken that were under way when something unforeseen happened."""
        self._tried |= {key_of(due): problem for due in dues}

    def note_cancelled(self, cancelled_by: Mapping[str, str]) -> None:
        """Skip the instances that only messages ask for that somebody has cancelled."""
        self.cancelled_by = cancelled_by
        keys: dict[bool, set[InstanceKey]] = {True: set(), False: set()}
        for message_id, asked in self._asked.items():
            keys[message_id in cancelled_by].update(map(key_of, asked.left))
        self._skipped = keys[True] - keys[False]

    def progress(self) -> list[tuple[PendingEvent, int, int]]:
        """Return new messages that were taken in part, with the numbers of instances taken and in all."""
        found = []
        for message_id, asked in self._asked.items():
            if not asked.left or asked.pending.sop_instance_uid is not None:
                continue
            missing = sum(not self.is_taken(due) for due in asked.left)
            taken, count = len(asked.wanted) - missing, len(asked.wanted)
            if 0 < missing < len(asked.left) and self.shown.get(message_id) != taken:
                found.append((asked.pending, taken, count))
                self.shown[message_id] = taken
        return found

    def outcome_of(self, pending: PendingEvent) -> Done | Failed | None:
        """Return what became of a message, and forget it; see the function of this name."""
        asked = self._asked.pop(pending.message_id)
        tried = [self._tried[key_of(due)] for due in asked.left if key_of(due) in self._tried]
        is_all_taken = all(due.is_sent or self.is_taken(due) for due in asked.wanted)
        return outcome_of(asked, tried, self.is_cut, self.cancelled_by.get(pending.message_id), is_all_taken)


def key_of(due: DueInstance) -> InstanceKey:
    """Return what tells an instance from others."""
    return due.image_id, due.sha256


def series_of(due: DueInstance) -> SeriesKey:
    """Return the series of an instance."""
    return due.study_instance_uid, due.series_instance_uid
