"""Several connections to one destination at the same time; the instances of a series stay on one, in their order."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from node.index.work.routes import DueInstance, OwedInstance
from node.routing.destination import Confirmation, Delivered, Destination, Prepared, Unreachable

MAX_QUEUED = 4
"""Instances that wait for a connection which is busy: with fewer, it would wait for the thread that reads them."""

_Item = TypeVar("_Item")


def interleaved(items: Iterable[_Item], group_of: Callable[[_Item], Hashable], width: int) -> list[_Item]:
    """Return items so that `width` groups take turns; each group keeps its order, and a new one follows one that ends.

    Parameters
    ----------
    group_of : callable (item)
        Such as the series of an instance.
    """
    items = list(items)
    if width == 1:
        return items
    groups: dict[Hashable, deque[_Item]] = {}
    for item in items:
        groups.setdefault(group_of(item), deque()).append(item)
    later = deque(groups.values())
    turns = deque(later.popleft() for _ in range(min(width, len(later))))
    ordered: list[_Item] = []
    while turns:
        group = turns.popleft()
        ordered.append(group.popleft())
        if group:
            turns.append(group)
        elif later:
            turns.append(later.popleft())
    return ordered


class ParallelDestination:
    """A destination with several connections, each on a thread of its own while it sends.

    A series stays on its connection as long as instances of it are under way there; then it takes the one that has the
    least to do. If the destination refuses some of the connections, the others do their work.

    `name`: of the threads. `connections`: to the same destination.
    """

    def __init__(self, name: str, connections: Sequence[Destination]) -> None:
        self._name, self._connections = name, list(connections)
        self._threads: ThreadPoolExecutor | None = None

    def deliver(self, instances: Iterable[Prepared], is_abandoned: Callable[[], bool]) -> Iterator[Delivered]:
        """Send instances. See `Destination.deliver`."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(len(self._connections), thread_name_prefix=self._name)
        delivery = _Delivery(self._connections, self._threads, is_abandoned)
        try:
            for prepared in instances:
                yield from delivery.add(prepared)
            yield from delivery.finish()
        except GeneratorExit:
            delivery.cut()
            raise
        except BaseException:
            yield from delivery.cut()
            raise
        finally:  # those that were refused are the last to be used: the others may be all that the destination accepts
            self._connections = delivery.connections()

    def confirm(
        self, owed: Sequence[OwedInstance], transaction_uid: str, is_abandoned: Callable[[], bool]
    ) -> Confirmation | None:
        """Ask on one connection. See `Destination.confirm`."""
        return self._connections[0].confirm(owed, transaction_uid, is_abandoned)

    def is_origin(self, due: DueInstance) -> bool:
        """Return whether an instance came from the destination."""
        return self._connections[0].is_origin(due)

    def rest(self) -> None:
        """Close the connections, and end the threads."""
        for connection in self._connections:
            connection.rest()
        if self._threads is not None:
            self._threads.shutdown()
        self._threads = None


class _Cut(Exception):
    """The delivery ends before what is queued was sent."""


class _Lane:
    """A connection during one delivery."""

    def __init__(self, connection: Destination) -> None:
        self.connection = connection
        self.queue: deque[Prepared] = deque()
        self.under_way: deque[Prepared] = deque()  # taken from the queue, without an outcome
        self.series: Counter[tuple[str, str]] = Counter()  # of both
        self.is_running = self.was_used = self.is_lost = False

    @property
    def load(self) -> int:
        return self.series.total()

    def forget(self, prepared: Prepared) -> None:
        series = _series(prepared)
        self.series[series] -= 1
        if not self.series[series]:
            del self.series[series]


class _Delivery:
    """Instances on their way to their connections, and outcomes on their way back."""

    def __init__(
        self, connections: Sequence[Destination], threads: ThreadPoolExecutor, is_abandoned: Callable[[], bool]
    ) -> None:
        self._threads, self._is_abandoned = threads, is_abandoned
        self._lanes = [_Lane(connection) for connection in connections]
        self._changed = threading.Condition()
        self._done: deque[Delivered] = deque()
        self._held_back: set[tuple[str, str]] = set()
        self._is_whole = self._is_cut = False
        self._error: BaseException | None = None
        self._futures: list[Future[None]] = []

    def add(self, prepared: Prepared) -> Iterator[Delivered]:
        """Queue an instance as soon as there is room, and yield the outcomes of others.

        Raises Unreachable if no connection is left.
        """
        is_queued = False
        while not is_queued:
            with self._changed:
                self._changed.wait_for(lambda: self._error or self._done or self._room_for(prepared))
                self._raise_error()
                if (lane := self._room_for(prepared)) is not None:
                    lane.queue.append(prepared)
                    lane.series[_series(prepared)] += 1
                    self._start(lane)
                    is_queued = True
                done = self._taken_done()
            yield from done

    def finish(self) -> Iterator[Delivered]:
        """Yield the outcomes that are left.

        Raises Unreachable if no connection is left.
        """
        with self._changed:
            self._is_whole = True
            self._changed.notify_all()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._error or self._done or self._is_idle())
                self._raise_error()
                done, is_idle = self._taken_done(), self._is_idle()
            yield from done
            if is_idle:
                break
        self._wait()

    def cut(self) -> list[Delivered]:
        """Send nothing that is queued, and return the outcomes of what is under way."""
        with self._changed:
            self._is_cut = True
            self._changed.notify_all()
        self._wait()
        return self._taken_done()

    def connections(self) -> list[Destination]:
        """Return the connections, those that were lost at the end."""
        return [lane.connection for lane in sorted(self._lanes, key=lambda lane: lane.is_lost)]

    def _wait(self) -> None:
        wait(self._futures)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _taken_done(self) -> list[Delivered]:
        done = list(self._done)
        self._done.clear()
        return done

    def _is_idle(self) -> bool:
        return not any(lane.load for lane in self._lanes)

    def _room_for(self, prepared: Prepared) -> _Lane | None:
        """Return the lane that is to send an instance; None if it has no room."""
        series = _series(prepared)
        lanes = [lane for lane in self._lanes if not lane.is_lost]
        lane = next((lane for lane in lanes if series in lane.series), None) or min(lanes, key=lambda lane: lane.load)
        return lane if len(lane.queue) < MAX_QUEUED else None

    def _start(self, lane: _Lane) -> None:
        if not lane.is_running:
            lane.is_running = lane.was_used = True
            self._futures.append(self._threads.submit(self._run, lane))
        self._changed.notify_all()

    # On the thread of a lane

    def _run(self, lane: _Lane) -> None:
        try:
            while lane.is_running:
                for delivered in lane.connection.deliver(self._items(lane), self._is_abandoned):
                    self._note(lane, delivered)
                with self._changed:
                    for prepared in lane.under_way:  # held back
                        lane.forget(prepared)
                    lane.under_way.clear()
                    lane.is_running = bool(lane.queue)  # it may have become the heir of another
                    self._changed.notify_all()
        except _Cut:
            pass
        except BaseException as error:  # of every kind: it belongs to the thread of the route
            with self._changed:
                self._lose(lane, error)

    def _note(self, lane: _Lane, delivered: Delivered) -> None:
        problem = delivered.problem
        with self._changed:
            lane.under_way.remove(delivered.prepared)
            lane.forget(delivered.prepared)
            if problem is not None and not problem.is_final and delivered.prepared.holds_back:
                self._held_back.add(_series(delivered.prepared))
            self._done.append(delivered)
            self._changed.notify_all()

    def _items(self, lane: _Lane) -> Iterator[Prepared]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: lane.queue or self._is_cut or self._is_whole)
                if self._is_cut:
                    raise _Cut
                if not lane.queue:
                    return
                prepared = lane.queue.popleft()
                self._changed.notify_all()
                if _series(prepared) in self._held_back:
                    lane.forget(prepared)
                    continue
                lane.under_way.append(prepared)
            yield prepared

    def _lose(self, lane: _Lane, error: BaseException) -> None:
        """Hand what a lane leaves to another one that works; without one, nothing more is sent."""
        lane.is_lost = True
        heirs = [other for other in self._lanes if other.was_used and not other.is_lost]
        if isinstance(error, Unreachable) and heirs and not self._is_cut:
            heir = min(heirs, key=lambda other: other.load)
            heir.queue.extendleft(reversed([*lane.under_way, *lane.queue]))
            heir.series += lane.series
            lane.under_way.clear()
            lane.queue.clear()
            lane.series.clear()
            self._start(heir)
        else:
            self._error = self._error or error
            self._changed.notify_all()


def _series(prepared: Prepared) -> tuple[str, str]:
    return prepared.due.study_instance_uid, prepared.due.series_instance_uid
