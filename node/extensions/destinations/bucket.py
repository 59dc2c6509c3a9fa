"""A bucket of S3 as a destination: DICOM files as objects, named as in a folder.

The object store checks each upload by its SHA-256. An object is created only if there is none of its name, so that an
attempt that is repeated after a kill leaves no second version; one with other content is replaced.

The synchronous calls of the library are used, from threads: after its asynchronous ones, one process in six aborts at
its end (obstore 0.12.1).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from node.errors import UsageError
from node.extensions.destinations.folder import WrittenDestination, file_name
from node.extensions.object_store.stores import (
    MAX_WHOLE_BYTES,
    PART_BYTES,
    REMEDIES,
    RETRIES,
    bucket_options,
    credentials_of,
    provider_of,
    word_of,
)
from node.index.database.work_loop import Interrupted
from node.routing.destination import Delivered, NotTaken, Prepared, Unreachable
from node.settings.model import Destination as Described

if TYPE_CHECKING:
    from obstore.store import S3Store

MAX_UPLOADS, MAX_BYTES = 8, 32_000_000
"""Uploads at a time, and their bytes, so that a slow line ends each of them in time; one instance may be larger."""

LOOK_SECONDS = 0.5
"""Interval at which a wait for an upload looks whether it is abandoned."""

DIGEST = "sha256"
"""Metadata of an object (x-amz-meta-sha256): the digest of its content."""

_REMEDIES = {
    **REMEDIES,
    "NoSuchBucket": "create the bucket, or correct s3",
    "AccessDenied": "the credentials need s3:PutObject and s3:GetObject on the bucket",
    "status 403": "the credentials need s3:PutObject and s3:GetObject on the bucket",
}


class BucketDestination(WrittenDestination):
    """Writes DICOM files into a bucket.

    `s3`: ``s3://BUCKET/PREFIX``. `endpoint`: address of a server that is not Amazon's. `region`: None: of the
    environment. `credentials_file`: keys as in ``~/.aws/credentials``, read again every few minutes; None: the
    environment, or the role of the machine. `ca_file`: certificate authorities in addition to those of the system.
    `timeout` (seconds): longest time of a request. `is_read_again`: read each object again after it was written, as a
    proof that it is kept. Raises UsageError if a file cannot be read.
    """

    def __init__(
        self,
        s3: str,
        layout: Literal["names", "archive"],
        endpoint: str | None,
        region: str | None,
        credentials_file: Path | None,
        ca_file: Path | None,
        timeout: float,
        *,
        is_read_again: bool,
    ) -> None:
        parts = urlsplit(s3)
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._place = f"s3://{self._bucket}" + (f" at {endpoint}" if endpoint else "")
        self._layout, self._is_read_again, self._credentials_file = layout, is_read_again, credentials_file
        self._config, self._client = bucket_options(endpoint, region, ca_file, timeout)
        if credentials_file is not None:
            credentials_of(credentials_file)
        self._mode: Literal["create", "overwrite"] = "create"
        self._store: S3Store | None = None
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

    def _opened(self) -> S3Store:
        if self._store is None:
            from obstore.store import S3Store  # here: config check must not start its threads

            if self._credentials_file is not None:
                try:
                    credentials_of(self._credentials_file)
                except UsageError as error:
                    raise Unreachable(str(error)) from error
            self._store = S3Store(
                self._bucket,
                prefix=self._prefix or None,
                config=self._config,
                client_options=self._client,
                retry_config=RETRIES,
                credential_provider=provider_of(self._credentials_file),
            )
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

    def _write(self, store: S3Store, prepared: Prepared) -> None:
        """Write an object."""
        name = file_name(prepared, self._layout).as_posix()
        try:
            content = _Content(prepared.outgoing.path)
        except OSError as error:
            raise NotTaken(f"its file cannot be read now: {error.strerror}") from error
        from obstore.exceptions import BaseError

        try:
            self._put(store, name, content)
            if self._is_read_again and _digest_of(store, name) != content.digest:
                raise NotTaken("an object that was written is not the same when it is read again")
        except (BaseError, OSError) as error:  # the library raises OSErrors of its own for what is not found
            raise self._problem(error) from error

    def _put(self, store: S3Store, name: str, content: _Content) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError

        described: Any = {"Content-Type": "application/dicom", DIGEST: content.digest}
        if content.data is None:  # in parts, which cannot be conditional
            if _noted_digest(store, name) != content.digest:
                obstore.put(
                    store, name, content.path, attributes=described, use_multipart=True, chunk_size=PART_BYTES,
                    max_concurrency=4,
                )  # fmt: skip
            return
        if self._mode == "create":
            try:
                obstore.put(store, name, content.data, attributes=described, mode="create", use_multipart=False)
                return
            except AlreadyExistsError:
                if _noted_digest(store, name) == content.digest:
                    return
            except (NotSupportedError, NotImplementedError):
                self._mode = "overwrite"
        obstore.put(store, name, content.data, attributes=described, use_multipart=False)

    def _problem(self, error: Exception) -> NotTaken | Unreachable:
        """Return what an error of the library means, without its text, which has the names of objects."""
        word, number = word_of(error)
        if remedy := _REMEDIES.get(word):
            return Unreachable(f"{self._place}: {word}: {remedy}")
        if 400 <= number < 500 and number not in (401, 403, 404, 408, 429):
            return NotTaken(f"{self._place} refused it: {word}")
        return Unreachable(f"{self._place}: {word}")


class _Content:
    """A file to be written, with its digest; the bytes of one that is not sent in parts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: bytes | None = None
        with path.open("rb", buffering=0) as file:
            if path.stat().st_size > MAX_WHOLE_BYTES:
                self.digest = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                self.data = file.readall()
                self.digest = hashlib.sha256(self.data).hexdigest()


def _noted_digest(store: S3Store, name: str) -> str | None:
    """Return the digest in the metadata of an object; None if there is none."""
    import obstore

    try:
        found = obstore.get(store, name, options={"head": True}).attributes.get(DIGEST)
    except FileNotFoundError:
        return None
    return None if found is None else str(found)


def _digest_of(store: S3Store, name: str) -> str:
    import obstore

    digest = hashlib.sha256()
    for chunk in obstore.get(store, name).stream():
        digest.update(chunk)
    return digest.hexdigest()


def opened(described: Described, is_read_again: bool) -> BucketDestination:
    """Return the bucket of a table. See `node.hookspecs.OpenReceiver`."""
    return BucketDestination(
        described.s3 or "", described.layout, described.endpoint, described.region, described.credentials_file,
        described.ca_file, described.timeout_seconds, is_read_again=is_read_again,
    )  # fmt: skip
