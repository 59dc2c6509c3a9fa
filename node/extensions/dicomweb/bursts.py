"""Frames that a viewer asks for one by one, in requests that are alike but for the UID of the instance.

The first request of a burst is answered like any other. The second one finds all instances of the series that its
caller sees, and writes a line of the audit log about them, before they are kept. The requests that follow are answered
from what is kept: their client, headers and path are the same but for the UID, so whatever the checks of the others
depend on is the same as well.

Nothing is answered from what was found before a commit that took something away (`Index.version`): a deletion, a right
that was withdrawn and a file that was replaced count from their commit on. An instance that may have come again, and
is not indexed yet, is left to the route, which waits for it. What ends with time alone, such as a token, may count
`LIFE_SECONDS` late, as in answers that last (`node.web.access.StillAllowed`). What cannot be answered here, the
route answers like any other request. A request that is answered here passes the log and the check of its host, but
is not routed (`node.web.routes_by_path.Shortcuts`).

A file of which a frame is sent is compared with its digest, once while it does not change
(`node.receive.stored_files.RecentlyVerified`). A picture that is kept has this digest in
its name: it was made of the bytes that were received, so it is right even if the file was damaged since, and the file
is not read.
"""

import errno
import hashlib
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import IO

from fastapi import HTTPException, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from node.children.serving import packed
from node.extensions.dicomweb.resources import BROKEN, SelectedInstances, derived_name, length_of
from node.index.rows.files import StoredInstance
from node.web.access import Call, identify_again
from node.web.errors import NoPlace
from node.web.files import DAMAGED, Damaged, file_length

LIFE_SECONDS = 1.0
"""For how long a caller is taken for that of equal requests."""

FIND_SECONDS = 1.0
"""A series is found no more often, however often something is committed."""

MAX_INSTANCES = 5000
"""Most instances of a series that are kept; to find them takes some 50 ms."""

MAX_KEPT = 20_000
"""Most instances that are kept of all bursts, in some 15 MB; those of the burst that began longest ago go first."""

MAX_BURSTS = 64

MAX_FILE_BYTES = 2 << 20
"""Longest file that is read for a frame here; a longer one delays all other requests."""

WARM = getattr(os, "RWF_NOWAIT", 0)
"""As flags of a read: raise BlockingIOError if the bytes are not in memory; 0 where the system does not say."""

Answer = Callable[[SelectedInstances, StoredInstance, Callable[[], memoryview], int], Response | None]
"""Answers a request from the bytes of the file, which a function returns if it is whole; what else it reads, it reads
with these flags, and without them it may wait for a child process. None: it cannot."""


@dataclass(frozen=True, slots=True)
class _Burst:
    """What equal requests have in common.

    `call`: of the last one that was answered by the route, `begun_at` then.
    `instances`: by UID, as of `version` of the index; none before the second request.
    `files`: theirs, as `Decoder.run_beside` takes them.
    `is_renewed`: one request passes the route to renew it, while the others are still answered from it.
    """

    call: Call
    begun_at: float
    answer: Answer
    found_at: float = float("-inf")
    version: int | None = None
    is_renewed: bool = False
    instances: Mapping[str, StoredInstance] = field(default_factory=dict)
    files: bytes = b""


class Bursts:
    """The bursts of one application. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bursts: OrderedDict[Hashable, _Burst] = OrderedDict()

    def find(self, scope: Scope, now: float, version: int | None) -> tuple[_Burst, StoredInstance] | None:
        """Return what a request can be answered from that comes at a time, with a version of the index."""
        key, uid = _key(scope)
        with self._lock:
            burst = self._bursts.get(key)
            if burst is None or version is None or burst.version != version or now - burst.begun_at >= LIFE_SECONDS:
                return None
            if now - burst.begun_at >= LIFE_SECONDS / 2 and not burst.is_renewed:
                self._bursts[key] = replace(burst, is_renewed=True)
                return None
        instance = burst.instances.get(uid)
        return None if instance is None else (burst, instance)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """See `node.web.routes_by_path.Shortcut`."""
        if not self._bursts or "/instances/" not in scope["path"]:
            return False
        index = scope["app"].state.services.index
        found = self.find(scope, monotonic(), index.version())
        if found is None or index.ahead.may_bring(found[1].sop_instance_uid):
            return False
        (burst, instance), of_route = found, found[0].call.request.scope
        scope["path_params"] = {**of_route["path_params"], "instance": instance.sop_instance_uid}
        request = Request(scope, receive)
        response = await _answer(request, burst, instance)
        if response is None:
            return False
        try:
            identify_again(request, burst.call.account)
        except NoPlace:
            return False
        scope["route"], scope["endpoint"] = of_route["route"], of_route["endpoint"]  # for the log
        await response(scope, receive, send)
        return True

    def note(self, call: Call, what: str, answer: Answer) -> None:
        """Note that the route answers a request for `what` of an instance; `answer` answers those that follow."""
        (key, uid), (begun_at, version) = _key(call.request.scope), call.request.state.begun
        with self._lock:
            before = self._bursts.get(key)
            if before is None or begun_at - before.begun_at >= 2 * LIFE_SECONDS:
                self._keep(key, _Burst(call, begun_at, answer))
                return
            is_known = version == before.version and uid in before.instances
            if version is None or (not is_known and begun_at - before.found_at < FIND_SECONDS):
                return
            if not is_known:
                self._keep(key, replace(before, found_at=begun_at))
        instances = before.instances if is_known else _found(call)
        files = before.files if is_known else packed(call.node.archive.path(one.key) for one in instances.values())
        if len(instances) > 1:
            uids = call.request.path_params
            series = {"study_instance_uid": uids["study"], "series_instance_uid": uids["series"]}
            call.audit.accessed([series | {"instances": len(instances)}], f"{what}, one by one")
            with self._lock:
                found_at = before.found_at if is_known else begun_at
                self._keep(key, _Burst(call, begun_at, answer, found_at, version, instances=instances, files=files))

    def files(self, scope: Scope, uid: str) -> bytes:
        """Return the files of the burst of a request, if an instance is one of it."""
        with self._lock:
            burst = self._bursts.get(_key(scope)[0])
        return burst.files if burst is not None and uid in burst.instances else b""

    def _keep(self, key: Hashable, burst: _Burst) -> None:
        self._bursts[key] = burst
        while len(self._bursts) > MAX_BURSTS or sum(len(one.instances) for one in self._bursts.values()) > MAX_KEPT:
            self._bursts.popitem(last=False)


def _key(scope: Scope) -> tuple[Hashable, str]:
    """Return what requests of one burst have in common, all but the UID of the instance, and this UID."""
    before, _, rest = scope["path"].partition("/instances/")
    uid, _, after = rest.partition("/")
    address = scope["client"][0] if scope["client"] else ""
    key = (before, after, scope["method"], scope["scheme"], address, scope["query_string"], *scope["headers"])
    return key, uid


def _found(call: Call) -> Mapping[str, StoredInstance]:
    """Return the instances of the series that the caller sees and that are short; none if there are too many."""
    uids = call.request.path_params
    with call.node.index.reading() as index:
        stored = index.files.stored(uids["study"], uids["series"])
        found = [one for one in stored if file_length(one) <= MAX_FILE_BYTES]
    return {one.sop_instance_uid: one for one in found} if len(found) <= MAX_INSTANCES else {}


class BurstRoute(APIRoute):
    """A route for frames, whose function calls `begin_burst`."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `starlette.routing.Route.handle`."""
        began = monotonic(), scope["app"].state.services.index.version()
        Request(scope).state.begun = began  # before the caller is identified and rows are read
        await super().handle(scope, receive, send)


def begin_burst(call: Call, what: str, answer: Answer) -> None:
    """See `Bursts.note`. It does nothing where only an object store may have the files."""
    if call.node.archive.remote is None:
        _bursts_of(call.request).note(call, what, answer)


def decoded(
    target: SelectedInstances, instance: StoredInstance, function: Callable[..., bytes], *arguments: object
) -> bytes:
    """Run a function of `node.extensions.dicomweb.decoding` on the file of an instance, beside others of its burst.

    Raises what `Decoder.run` does.
    """
    files = _bursts_of(target.request).files(target.request.scope, instance.sop_instance_uid)
    try:
        return target.node.decoder.run_beside(files, function, *arguments)
    except PermissionError:  # the file was put back from a backup, say, after that process was told what it may read
        return target.node.decoder.run(function, *arguments)


def _bursts_of(request: Request) -> Bursts:
    state = request.app.state
    if not hasattr(state, "bursts"):
        state.bursts = Bursts()
        state.shortcuts.append(state.bursts.answer)
    bursts: Bursts = state.bursts
    return bursts


async def _answer(request: Request, burst: _Burst, instance: StoredInstance) -> Response | None:
    """Answer a request at once if its files are in memory, else in a thread that waits for the disk or a decoder."""
    target = SelectedInstances(replace(burst.call, request=request), [instance])
    with suppress(BlockingIOError):
        if WARM:
            return _answer_now(target, burst.answer, instance, WARM)
    return await run_in_threadpool(_answer_now, target, burst.answer, instance, 0)


def _answer_now(target: SelectedInstances, answer: Answer, instance: StoredInstance, flags: int) -> Response | None:
    """Return None if the file is not as it was received, or the request has to be refused. See `WARM`."""
    try:
        return answer(target, instance, partial(_whole_file, target, instance, flags), flags)
    except BlockingIOError:
        raise
    except (OSError, HTTPException, *BROKEN):
        return None


def _whole_file(target: SelectedInstances, instance: StoredInstance, flags: int) -> memoryview:
    """Return the bytes of the file of an instance, whose digest was compared. Raises Damaged and OSError."""
    length, verified = file_length(instance), target.node.verified
    file = os.open(target.node.archive.path(instance.key), os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = os.fstat(file)
        content = read_at_once(file, length + 1, flags)
        is_known = verified.knows(os.fstat(file), instance.sha256)
    finally:
        os.close(file)
    if len(content) != length:
        raise Damaged(DAMAGED)  # the route looks again, and marks it
    if not is_known:
        if hashlib.sha256(content[instance.data_set_offset :]).hexdigest() != instance.sha256:
            raise Damaged(DAMAGED)
        verified.note(before, instance.sha256)
    return content


_kept = threading.local()


def read_at_once(file: int, length: int, flags: int) -> memoryview:
    """Return the first bytes of a file, fewer if it ends before. Raises OSError; see `WARM`.

    What is in memory is read into one buffer again and again: the next read of the thread writes over it. In a new one,
    the kernel would have to find each page first, which takes longer than to read them.
    """
    content = memoryview(bytearray(length) if not flags else _buffer())[:length]
    try:
        count = os.preadv(file, [content], 0, flags)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # such a disk does not say what is in memory
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        raise
    if flags and count < min(length, os.fstat(file).st_size):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return content[:count]


def _buffer() -> mmap.mmap:
    """Return the buffer of this thread, at the start of a page: a copy is slower that begins a few bytes behind it."""
    if not hasattr(_kept, "buffer"):
        _kept.buffer = mmap.mmap(-1, MAX_FILE_BYTES + 1)
    buffer: mmap.mmap = _kept.buffer
    return buffer


def kept_bytes(
    target: SelectedInstances, instance: StoredInstance, name: str, flags: int, make: Callable[[], IO[bytes]]
) -> memoryview | bytes:
    """Return what `derived_file` has kept under a name, else what `make` makes and keeps, which waits for a child.

    Raises OSError, see `WARM`; and what `make` raises.
    """
    kept = target.node.archive.derived.kept(instance.key, derived_name(instance, name))
    if kept is not None:
        with kept:
            return read_at_once(kept.fileno(), length_of(kept), flags)
    if flags:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    with make() as made:
        return made.read()
