"""Instances are compared with their digests, and changed if the route says so, while those before them are sent."""

import uuid
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from node.archive.base import LocalFile, StoreAway
from node.archive.intact import MISSING, intact_bytes, problem_with
from node.archive.space import reason_of
from node.association.client.send import Outgoing
from node.children.decoder import Decoder, DecoderBusy, NotDecoded, NotDecodedNow
from node.children.forwarding import CopyChange, copy_of, forward
from node.children.messages import Garbled
from node.errors import Withheld
from node.index.rules.work.routes import DueInstance
from node.routing.destination import NotTaken, Prepared, Unreachable

BATCH_INSTANCES, BATCH_BYTES = 32, 4_000_000
"""Instances that are prepared in one step of the thread: switching to it for each would cost more than a small one."""

BATCHES_AHEAD = 2
"""Batches that are prepared before they are taken."""

_LEAVE_OUT = "leave it out by `where` of the route"

_Outcome = tuple[int, Prepared | NotTaken | Unreachable]
"""The id of the row of an instance, and what became of it."""


class Preparer:
    """Prepares instances on a thread of its own. For one worker.

    `name`: of the thread. `root`: root of the archive. `folder`: `Archive.incoming`: copies lie there, where the next
    start removes them after a crash. `change`: how copies differ from what is stored. `local`: fetches files that are
    not below the root; None: all of them are. `report`: gets the key of a file, and how it differs from what was
    received; returns whether it is whole after all.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        folder: Path,
        decoder: Decoder,
        change: CopyChange,
        report: Callable[[str, str], bool],
        local: LocalFile | None = None,
    ) -> None:
        self._root, self._folder, self._decoder, self.change, self._local = root, folder, decoder, change, local
        self._report = report
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._expected: deque[DueInstance] = deque()
        self._under_way: deque[Future[list[_Outcome]]] = deque()
        self._ready: dict[int, Prepared | NotTaken | Unreachable] = {}

    def expect(self, dues: Iterable[DueInstance]) -> None:
        """Note which instances are taken next, in this order."""
        self._drop()
        self._expected = deque(dues)

    def take(self, due: DueInstance) -> Prepared:
        """Return an instance that is ready to leave; `release` it afterwards.

        Raises NotTaken if its file is missing or damaged, or it cannot be changed as the route demands. Raises
        Unreachable if this node has no room for copies, or too much else to do.
        """
        self._begin_next()
        while due.image_id not in self._ready and self._under_way:
            self._ready |= self._under_way.popleft().result()
            self._begin_next()
        outcome = self._ready.pop(due.image_id, None) or self._outcome(due)[1]
        if not isinstance(outcome, Prepared):
            raise outcome
        return outcome

    def release(self, prepared: Prepared) -> None:
        """Remove the copy of an instance."""
        if prepared.is_copy:
            prepared.outgoing.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove copies that were not taken, and end the thread."""
        self._drop()
        self._thread.shutdown()

    def _begin_next(self) -> None:
        while self._expected and len(self._under_way) < BATCHES_AHEAD:
            batch: list[DueInstance] = []
            size = 0
            while self._expected and len(batch) < BATCH_INSTANCES and size < BATCH_BYTES:
                batch.append(self._expected.popleft())
                size += batch[-1].bytes
            self._under_way.append(self._thread.submit(self._outcomes, batch))

    def _drop(self) -> None:
        """Forget what was expected, and remove its copies."""
        self._expected.clear()
        while self._under_way:
            future = self._under_way.popleft()
            if not future.cancel():
                self._ready |= future.result()
        for outcome in self._ready.values():
            if isinstance(outcome, Prepared):
                self.release(outcome)
        self._ready.clear()

    def _outcomes(self, batch: Iterable[DueInstance]) -> list[_Outcome]:
        return [self._outcome(due) for due in batch]

    def _outcome(self, due: DueInstance) -> _Outcome:
        try:
            return due.image_id, self._prepared(due)
        except (NotTaken, Unreachable) as problem:
            return due.image_id, problem

    def _prepared(self, due: DueInstance) -> Prepared:
        path, change = self._root / due.key, self.change.of(due.identity)
        found: bytes | str | None
        try:
            if self._local is not None:
                self._local(due)
            if due.bytes > BATCH_BYTES or change.concerns(due.transfer_syntax_uid):
                found = problem_with(path, due.data_set_offset, due.bytes, due.sha256)
            else:
                found = intact_bytes(path, due.data_set_offset, due.bytes, due.sha256)
        except StoreAway as error:
            raise Unreachable(f"files cannot be fetched from the archive: {error.strerror}") from error
        except OSError as error:
            raise NotTaken(f"its file cannot be read now: {error.strerror}") from error
        if isinstance(found, str) and self._report(due.key, found):
            raise NotTaken("its file was read with errors, and is whole now")
        if isinstance(found, str):  # a missing one may have made room for another version meanwhile
            reason = f"its file {found}: send the instance to this node again"
            raise NotTaken(reason, is_final=found != MISSING, damaged=due.key)
        if change.concerns(due.transfer_syntax_uid):
            return Prepared(due, self._copied(due, path, change), is_copy=True)
        outgoing = Outgoing(
            path, due.sop_class_uid, due.sop_instance_uid, due.transfer_syntax_uid, due.data_set_offset, due.bytes,
            data=found,
        )  # fmt: skip
        return Prepared(due, outgoing)

    def _copied(self, due: DueInstance, path: Path, change: CopyChange) -> Outgoing:
        into = self._folder / f"{uuid.uuid4().hex}.part"
        try:
            into.touch(0o600)
            copy = copy_of(self._decoder.run(forward, path, change, into=into), change)
            length = into.stat().st_size - copy.data_set_offset
            is_deidentified = self.change.deidentification is not None
            if is_deidentified and copy.sop_instance_uid != self.change.uid(due.sop_instance_uid):
                raise Garbled("the copy is of another instance")
        except Withheld as error:
            into.unlink(missing_ok=True)
            raise NotTaken(f"it cannot be de-identified: {error}; or {_LEAVE_OUT}", is_final=True) from error
        except NotDecodedNow as error:
            into.unlink(missing_ok=True)
            raise NotTaken(f"it cannot be changed now: {error}") from error
        except (NotDecoded, Garbled) as error:
            into.unlink(missing_ok=True)
            raise NotTaken(f"it cannot be changed as the route demands: {error}", is_final=True) from error
        except (DecoderBusy, OSError) as error:  # of this node: no instance is to blame
            into.unlink(missing_ok=True)
            reason = reason_of(error, self._folder) if isinstance(error, OSError) else error
            raise Unreachable(f"copies cannot be made here now: {reason}") from error
        return Outgoing(
            into, copy.sop_class_uid, copy.sop_instance_uid, copy.transfer_syntax_uid, copy.data_set_offset, length
        )
