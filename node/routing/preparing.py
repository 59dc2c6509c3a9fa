"""Instances are compared with their digests, and changed if the route says so, while the one before them is sent."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from node.archive.intact import problem_with
from node.association.client.send import Outgoing
from node.conversion.decoder import Decoder, DecoderBusy, NotDecoded
from node.conversion.forwarding import Change, copy_of, forward
from node.index.routes import DueInstance
from node.routing.destination import NotTaken, Prepared

AHEAD = 3
"""Instances that are prepared while one is sent."""

IMPOSSIBLE = "its file cannot be read"


class Preparer:
    """Prepares instances on a thread of its own. For one worker.

    Parameters
    ----------
    root : Path
        Root of the archive; copies lie in its folder ``incoming``, where the next start removes them after a crash.
    change : Change
        How copies differ from what is stored.
    """

    def __init__(self, name: str, root: Path, decoder: Decoder, change: Change) -> None:
        self._root, self._decoder, self._change = root, decoder, change
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._expected: deque[DueInstance] = deque()
        self._under_way: dict[int, Future[Prepared]] = {}

    def expect(self, dues: Iterable[DueInstance]) -> None:
        """Note which instances are taken next, in this order."""
        self._drop()
        self._expected = deque(dues)

    def take(self, due: DueInstance) -> Prepared:
        """Return an instance that is ready to leave; `release` it afterwards.

        Raises
        ------
        NotTaken
            Its file is missing or damaged, or it cannot be changed as the route demands.
        """
        self._begin_next()
        future = self._under_way.pop(due.image_id, None)
        if future is None:
            future = self._threads.submit(self._prepared, due)
        self._begin_next()
        return future.result()

    def release(self, prepared: Prepared) -> None:
        """Remove the copy of an instance."""
        if prepared.outgoing.path != self._path(prepared.due):
            prepared.outgoing.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove copies that were not taken, and end the thread."""
        self._drop()
        self._threads.shutdown()

    def _begin_next(self) -> None:
        while self._expected and len(self._under_way) < AHEAD:
            due = self._expected.popleft()
            self._under_way[due.image_id] = self._threads.submit(self._prepared, due)

    def _drop(self) -> None:
        for future in self._under_way.values():
            if not future.cancel() and future.exception() is None:
                self.release(future.result())
        self._under_way.clear()
        self._expected.clear()

    def _path(self, due: DueInstance) -> Path:
        return self._root / due.key

    def _prepared(self, due: DueInstance) -> Prepared:
        path = self._path(due)
        try:
            problem = problem_with(path, due.data_set_offset, due.bytes, due.sha256)
        except OSError as error:
            raise NotTaken(f"{IMPOSSIBLE} now: {error.strerror}") from error
        if problem is not None:
            raise NotTaken(f"its file {problem}: send the instance to this node again", is_final=True)
        if self._change.concerns(due.transfer_syntax_uid):
            return Prepared(due, self._copied(due, path))
        outgoing = Outgoing(
            path, due.sop_class_uid, due.sop_instance_uid, due.transfer_syntax_uid, due.data_set_offset, due.bytes
        )
        return Prepared(due, outgoing)

    def _copied(self, due: DueInstance, path: Path) -> Outgoing:
        into = self._root / "incoming" / f"{uuid.uuid4().hex}.part"
        try:
            into.touch(0o600)
            copy = copy_of(self._decoder.run(forward, path, self._change, into=into))
            length = into.stat().st_size - copy.data_set_offset
        except NotDecoded as error:
            into.unlink(missing_ok=True)
            raise NotTaken(f"it cannot be changed as the route demands: {error}", is_final=True) from error
        except (DecoderBusy, OSError) as error:
            into.unlink(missing_ok=True)
            raise NotTaken(f"it cannot be changed now: {error}") from error
        return Outgoing(
            into, copy.sop_class_uid, copy.sop_instance_uid, copy.transfer_syntax_uid, copy.data_set_offset, length
        )
