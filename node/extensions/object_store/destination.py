"""A bucket of S3 as a destination: DICOM files as objects, named as in a folder.

The object store checks each upload by its SHA-256. An object is created only if there is none of its name, so that an
attempt that is repeated after a kill leaves no second version; one with other content is replaced.

The synchronous calls of the library are used, from threads: after its asynchronous ones, one process in six aborts at
its end (obstore 0.12.1).
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from urllib.parse import urlsplit

from node.archive.base import StoreAway
from node.errors import UsageError
from node.extensions.object_store.bucket import REMEDIES, BucketStore, bucket_options, credentials_of, s3_store
from node.extensions.object_store.settings import BucketSettings
from node.extensions.object_store.stores import MAX_WHOLE_BYTES, ObjectNotTaken
from node.index.rows.records import RevisionFile
from node.index.work_loop import Interrupted
from node.routing.destination import Delivered, NotTaken, Prepared, Unreachable, WrittenDestination

MAX_UPLOADS, MAX_BYTES = 8, 32_000_000
"""Uploads at a time, and their bytes, so that a slow line ends each of them in time; one instance may be larger."""

LOOK_SECONDS = 0.5
"""Interval at which a wait for an upload looks whether it is abandoned."""

_REMEDIES = {
    **REMEDIES,
    "NoSuchBucket": "create the bucket, or correct s3",
    "AccessDenied": "the credentials need s3:PutObject and s3:GetObject on the bucket",
    "status 403": "the credentials need s3:PutObject and s3:GetObject on the bucket",
}


class BucketDestination(WrittenDestination):
    """Writes DICOM files into a bucket. See `node.routing.held.OpenReceiver`.

    `is_read_again`: read each object again after it was written, as a proof that it is kept. Raises UsageError if a
    file cannot be read. The file of credentials is read again every few minutes.
    """

    def __init__(self, its: BucketSettings, is_read_again: bool) -> None:
        super().__init__(its.layout)
        self._url = urlsplit(its.s3)
        self._place = f"s3://{self._url.netloc}" + (f" at {its.endpoint}" if its.endpoint else "")
        self._is_read_again, self._credentials_file = is_read_again, its.credentials_file
        self._config, self._client = bucket_options(its.endpoint, its.region, its.ca_file, its.timeout_seconds)
        if its.credentials_file is not None:
            credentials_of(its.credentials_file)
        self._store: BucketStore | None = None
        self._threads: ThreadPoolExecutor | None = None

    def deliver(self, instances: Iterable[Prepared], is_abandoned: Callable[[], bool]) -> Iterator[Delivered]:
        """Write objects, several at a time; the outcomes are in the order of the instances. See `Destination`."""
        store = self._opened()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(MAX_UPLOADS, thread_name_prefix="bucket")
        under_way: deque[tuple[Prepared, int, Future[None]]] = deque()
        try:
            for prepared in instances:
                size = prepared.outgoing.offset + prepared.outgoing.bytes
                while under_way and (
                    len(under_way) >= MAX_UPLOADS or size + sum(other for _, other, _ in under_way) > MAX_BYTES
                ):
                    yield self._outcome(under_way, is_abandoned)
                under_way.append((prepared, size, self._threads.submit(self._write, store, prepared)))
            while under_way:
                yield self._outcome(under_way, is_abandoned)
        finally:
            for _, _, upload in under_way:
                upload.cancel()

    def rest(self) -> None:
        """Close connections."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._threads = self._store = None

    def _opened(self) -> BucketStore:
        if self._store is None:
            if self._credentials_file is not None:
                try:
                    credentials_of(self._credentials_file)
                except UsageError as error:
                    raise Unreachable(str(error)) from error
            store = s3_store(self._url, self._config, self._client, self._credentials_file)
            self._store = BucketStore(store, self._place, remedies=_REMEDIES)
        return self._store

    def _outcome(
        self, under_way: deque[tuple[Prepared, int, Future[None]]], is_abandoned: Callable[[], bool]
    ) -> Delivered:
        """Wait for the first upload.

        Raises Interrupted if the wait is abandoned.
        """
        prepared, _, upload = under_way[0]
        while True:
            try:
                problem = upload.exception(LOOK_SECONDS)
                break
            except NotYet:
                if is_abandoned():
                    raise Interrupted from None
        under_way.popleft()
        if isinstance(problem, NotTaken):
            return Delivered(prepared, problem)
        if problem is not None:
            raise problem
        return Delivered(prepared, is_confirmed=self._is_read_again)

    def _write(self, store: BucketStore, prepared: Prepared) -> None:
        """Write an object."""
        path = prepared.outgoing.path
        try:
            with path.open("rb", buffering=0) as file:
                size, digest = path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
            content = path if size > MAX_WHOLE_BYTES else path.read_bytes()
        except OSError as error:
            raise NotTaken(f"its file cannot be read now: {error.strerror}") from error
        copy = RevisionFile(self.name_of(prepared).as_posix(), size, digest)
        try:
            if not store.put(copy, content):
                found = store.find(copy.key)
                if found is None or found.sha256 != digest:
                    store.put(copy, content, replace=True)
            if self._is_read_again and store.digest(copy.key, 0)[1] != digest:
                raise NotTaken("an object that was written is not the same when it is read again")
        except StoreAway as error:
            raise Unreachable(str(error.strerror)) from error
        except ObjectNotTaken as error:
            raise NotTaken(str(error)) from error
        except FileNotFoundError as error:
            raise NotTaken("its file, or the object that was written, is gone") from error
