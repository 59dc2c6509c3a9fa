"""Object stores: a bucket of S3, or a folder on another file system.

In a bucket, the store checks each upload by its SHA-256. Objects have the digest of their data set as metadata
(``x-amz-meta-sha256``). The synchronous calls of the library are used, from threads: after its asynchronous ones, one
process in six aborts at its end (obstore 0.12.1). It is imported when a store is opened, and by nothing else.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import os
import re
import shutil
import stat
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from node.archive.base import ArchivedFile, StoreAway, is_of_revision
from node.archive.space import reason_of
from node.errors import UsageError
from node.files.durable import NO_LINKS, make_folder, sync_file, sync_folder, write_all
from node.runtime.failpoints import reached

if TYPE_CHECKING:
    from _typeshed import SupportsRead
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential, S3Store

    from node.extensions.object_store.settings import StoreSettings

MAX_WHOLE_BYTES, PART_BYTES = 16_000_000, 16_000_000
"""Length of an object beyond which it is sent in parts, and that of a part."""

RETRIES: RetryConfig = {"max_retries": 2, "retry_timeout": dt.timedelta(seconds=10)}
"""Of the library, for errors that pass at once."""

CREDENTIALS_MINUTES = 5
"""Time after which a file of credentials is read again."""

FETCH_BYTES = 1 << 20

INCOMING = "incoming"
"""Folder of a store that is a folder, for objects that are not whole yet."""

PART_SECONDS = 86400.0
"""Time after which nobody writes to the part of an object any more. An upload that lost its part is done again."""

FALSE_CHECKSUMS = {"x-amz-checksum-sha256": b64encode(bytes(32)).decode(), "content-md5": b64encode(bytes(16)).decode()}
"""Headers that an upload of any bytes must not pass with: the one that uploads have, and the one of every S3."""

_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")

REMEDIES = {
    "NoSuchBucket": "create the bucket, or correct its name",
    "AccessDenied": "the credentials need s3:PutObject, s3:GetObject, s3:DeleteObject and s3:ListBucket on the bucket",
    "status 403": "the credentials need s3:PutObject, s3:GetObject, s3:DeleteObject and s3:ListBucket on the bucket",
    "InvalidAccessKeyId": "correct the credentials",
    "SignatureDoesNotMatch": "correct the credentials",
    "ExpiredToken": "renew the credentials",
    "InvalidToken": "renew the credentials",
    "RequestTimeTooSkewed": "set the clock of this machine",
    "PermanentRedirect": "set region to that of the bucket",
    "AuthorizationHeaderMalformed": "set region to that of the bucket",
    "InvalidStorageClass": "correct [storage] storage_class",
    "InvalidObjectState": "restore the object, and end the rule of the bucket that moved it to a class without reads",
}
"""Codes of errors that say something of the bucket or of our access to it, not of an object."""


class ObjectNotTaken(Exception):
    """The object store refuses one object; the message has neither its name nor its content."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a store; `sha256` is that of the data set, if the store keeps it beside the object."""

    key: str
    bytes: int
    written_at: float
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A file that is put with all of its bytes (`node.archive.base.ArchivedFile`)."""

    key: str
    bytes: int
    sha256: str
    data_set_offset: int = 0


class ObjectStore(Protocol):
    """A store of objects, by archive key. Thread-safe.

    Every method raises `StoreAway` unless the store has answered.

    `place`: where it is, for messages; without credentials.
    """

    place: str

    def put(self, file: ArchivedFile, content: bytes | Path, *, replace: bool = False) -> bool:
        """Create the object of a file from its bytes or, in parts, from a local path; durable when this returns.

        False if there is an object with this key already, which is left as it is. Raises FileNotFoundError if there is
        no local file.
        """

    def put_bytes(self, key: str, content: bytes) -> bool:
        """Create a small object; as `put`."""

    def find(self, key: str) -> StoredObject | None:
        """Return what the store has under a key, or None."""

    def content(self, key: str) -> Iterator[memoryview]:
        """Yield an object piece by piece; raises FileNotFoundError if there is none with this key."""

    def fetch(self, key: str, into: Path) -> None:
        """Copy an object to a new local file; raises as `content` does, and OSError if the file cannot be written."""
        content = self.content(key)
        piece = next(content, None)
        with open(into, "xb", buffering=0, opener=_opened_privately) as output:  # made once there is an object
            while piece is not None:
                write_all(output.fileno(), piece)
                piece = next(content, None)

    def digest(self, key: str, offset: int) -> tuple[int, str]:
        """Return the length and the SHA-256 of an object from an offset on; raises as `content` does."""
        digest, length = hashlib.sha256(), 0
        for piece in self.content(key):
            digest.update(piece[max(offset - length, 0) :])
            length += len(piece)
        return length - offset, digest.hexdigest()

    def checksum_problem(self, key: str, content: bytes) -> str | None:
        """Return how the store takes an object whose checksum is wrong; None if it refuses it, or none is sent.

        No object stays under the key, which must be free.
        """

    def sweep(self) -> None:
        """Remove what uploads of this host have left that a kill interrupted; before its first upload."""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that do not exist are no error."""

    def objects(self, folder: str) -> Iterator[StoredObject]:
        """Yield the objects whose keys begin with ``folder/``, in any order."""


def configured_store(storage: StoreSettings, host: str | None = None) -> ObjectStore:
    """Return the store of ``[storage] url``, of which nothing is asked yet.

    `host`: the name of this host among those that share the store, or ""; None for a process that only reads. Raises
    UsageError if a file cannot be read.
    """
    parts = urlsplit(storage.url or "")
    if parts.scheme == "file":
        return FolderStore(Path(unquote(parts.path)), host)
    config, client = bucket_options(storage.endpoint, storage.region, storage.ca_file, storage.store_seconds)
    if storage.credentials_file is not None:
        credentials_of(storage.credentials_file)

    def opened(config: S3Config, **headers: str) -> S3Store:
        options: ClientConfig = client | {"default_headers": headers} if headers else client
        return s3_store(parts, config, options, storage.credentials_file)

    place = f"s3://{parts.netloc}" + (f" at {storage.endpoint}" if storage.endpoint else "")
    without = config.copy()
    del without["checksum_algorithm"]
    falsely = tuple(partial(opened, without, **{header: value}) for header, value in FALSE_CHECKSUMS.items())
    return BucketStore(opened(config), place, storage.storage_class, falsely)


def bucket_options(
    endpoint: str | None, region: str | None, ca_file: Path | None, timeout: float
) -> tuple[S3Config, ClientConfig]:
    """Return the options of the library for a bucket.

    `endpoint`: address of a server that is not Amazon's.
    `region`: None: of the environment.
    `ca_file`: certificate authorities in addition to those of the system.
    `timeout`: longest time of a request.

    Raises UsageError: `ca_file` cannot be read.
    """
    config: S3Config = {"checksum_algorithm": "SHA256"}
    if endpoint is not None:
        config["endpoint"] = endpoint
    if region is not None:
        config["region"] = region
    client: ClientConfig = {
        "timeout": dt.timedelta(seconds=timeout),
        "connect_timeout": dt.timedelta(seconds=min(timeout, 10)),
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
    }
    if ca_file is not None:
        try:
            client["root_certificate"] = ca_file.read_bytes()
        except OSError as error:
            raise UsageError(f"ca_file {ca_file} cannot be used: {error.strerror}") from error
    return config, client


def s3_store(url: SplitResult, config: S3Config, client: ClientConfig, credentials_file: Path | None) -> S3Store:
    """Return the bucket of ``s3://BUCKET/PREFIX``, with the keys of a file; None: of the usual chain."""
    from obstore.store import S3Store

    return S3Store(
        url.netloc,
        prefix=url.path.strip("/") or None,
        config=config,
        client_options=client,
        retry_config=RETRIES,
        credential_provider=None if credentials_file is None else partial(credentials_of, credentials_file),
    )


class BucketStore(ObjectStore):
    """A bucket of S3, below a prefix.

    `falsely`: each opens it so that every upload has one of `FALSE_CHECKSUMS`. `remedies`: as `REMEDIES`.
    """

    def __init__(
        self,
        store: S3Store,
        place: str,
        storage_class: str | None = None,
        falsely: Sequence[Callable[[], S3Store]] = (),
        remedies: Mapping[str, str] = REMEDIES,
    ) -> None:
        self._store, self.place, self._falsely, self._remedies = store, place, falsely, remedies
        self._class = {} if storage_class is None else {"Storage-Class": storage_class}
        self._is_conditional = True

    def put(self, file: ArchivedFile, content: bytes | Path, *, replace: bool = False) -> bool:
        media_type = "application/octet-stream" if is_of_revision(file.key) else "application/dicom"
        described = {"Content-Type": media_type, "sha256": file.sha256, **self._class}
        if isinstance(content, bytes):
            return self._put(file.key, content, described, replace=replace)
        if not replace and self.find(file.key) is not None:  # uploads in parts cannot be conditional
            return False
        import obstore

        with self._asking(), content.open("rb") as parts:
            obstore.put(
                self._store, file.key, parts, attributes=described, use_multipart=True, chunk_size=PART_BYTES,
                max_concurrency=4,
            )  # fmt: skip
        return True

    def put_bytes(self, key: str, content: bytes) -> bool:
        return self._put(key, content, {}, replace=False)

    def _put(self, key: str, content: bytes, described: Any, *, replace: bool) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError

        with self._asking():
            if not replace and self._is_conditional:
                try:
                    obstore.put(self._store, key, content, attributes=described, mode="create", use_multipart=False)
                except AlreadyExistsError:
                    return False
                except (NotSupportedError, NotImplementedError):
                    self._is_conditional = False
                else:
                    return True
        if not replace and self.find(key) is not None:
            return False
        with self._asking():
            obstore.put(self._store, key, content, attributes=described, use_multipart=False)
        return True

    def find(self, key: str) -> StoredObject | None:
        import obstore

        with self._asking():
            try:
                found = obstore.get(self._store, key, options={"head": True})
            except FileNotFoundError:
                return None
            meta, sha256 = found.meta, found.attributes.get("sha256")
        return StoredObject(key, meta["size"], meta["last_modified"].timestamp(), str(sha256) if sha256 else None)

    def content(self, key: str) -> Iterator[memoryview]:
        import obstore

        with self._asking():
            pieces = iter(obstore.get(self._store, key).stream(FETCH_BYTES))
        while True:
            with self._asking():
                piece = next(pieces, None)
            if piece is None:
                return
            yield memoryview(piece)

    def checksum_problem(self, key: str, content: bytes) -> str | None:
        """As of every store.

        A signature does not cover a false checksum; S3 demands that it covers those of its own kind, and not the MD5.
        """
        import obstore

        for opened in self._falsely:
            try:
                with self._asking():
                    obstore.put(opened(), key, content, use_multipart=False)
            except ObjectNotTaken:
                return None
            except StoreAway:  # for its signature
                continue
            self.delete([key])
            return f"{self.place} takes an object whose checksum is wrong: uploads are verified by reading back"
        return None

    def sweep(self) -> None:
        """Do nothing: an object appears whole, and a rule of the bucket removes parts of interrupted uploads."""

    def delete(self, keys: Sequence[str]) -> None:
        import obstore

        with self._asking():
            obstore.delete(self._store, list(keys))

    def objects(self, folder: str) -> Iterator[StoredObject]:
        import obstore

        with self._asking():
            pages = iter(obstore.list(self._store, folder))
        while True:
            with self._asking():
                page = next(pages, None)
            if page is None:
                return
            yield from (StoredObject(one["path"], one["size"], one["last_modified"].timestamp()) for one in page)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn errors of the library into `StoreAway` and `ObjectNotTaken`, without its text, which names objects."""
        from obstore.exceptions import BaseError

        try:
            yield
        except UsageError as error:  # of the file of credentials
            raise StoreAway(str(error)) from error
        except FileNotFoundError as error:
            if word_of(error)[0] == "NoSuchBucket":
                raise self._away("NoSuchBucket") from error
            raise
        except (BaseError, OSError) as error:  # the library raises OSErrors of its own
            from obstore.exceptions import AlreadyExistsError, NotSupportedError

            if isinstance(error, AlreadyExistsError | NotSupportedError):
                raise
            word, number = word_of(error)
            if word not in self._remedies and 400 <= number < 500 and number not in (401, 403, 404, 408, 429):
                raise ObjectNotTaken(f"{self.place} refused it: {word}") from error
            raise self._away(word) from error

    def _away(self, word: str) -> StoreAway:
        remedy = self._remedies.get(word)
        return StoreAway(f"{self.place}: {word}{f': {remedy}' if remedy else ''}")


LINKS_NEEDED = (
    "this file system has no hard links, without which two hosts could replace each other's objects: mount one that "
    "has, such as NFS 4 or CephFS, or give [storage] url a bucket (s3://)"
)


class FolderStore(ObjectStore):
    """A folder, such as a mounted file system; files are synced, and created only where there is none.

    The folder must exist: a file system that is not mounted is not an empty store.

    An object is written below ``incoming`` and gets its name when it is whole. There each host has a folder of its own,
    which it empties when it starts; what a host leaves that never comes back goes after `PART_SECONDS`.
    """

    def __init__(self, folder: Path, host: str | None) -> None:
        self._folder, self.place = folder, f"file://{folder}"
        self._incoming = folder / INCOMING
        self._parts = self._incoming if host is None else self._incoming / (host or "node")

    def put(self, file: ArchivedFile, content: bytes | Path, *, replace: bool = False) -> bool:
        if isinstance(content, bytes):
            return self._put(file.key, BytesIO(content), replace=replace)
        with content.open("rb", buffering=0) as parts:
            return self._put(file.key, parts, replace=replace)

    def put_bytes(self, key: str, content: bytes) -> bool:
        return self._put(key, BytesIO(content), replace=False)

    def _put(self, key: str, content: SupportsRead[bytes], *, replace: bool) -> bool:
        with self._asking():
            target = self._path(key)
            if not replace and target.exists():
                return False
            for folder in (target.parent, self._parts):
                if not folder.is_dir():
                    make_folder(folder)
            part = self._parts / f"{uuid.uuid4().hex}.part"
            try:
                with open(part, "xb", opener=_opened_privately) as output:
                    shutil.copyfileobj(content, output, FETCH_BYTES)
                sync_file(part)
                reached("object-written")
                if replace:
                    os.replace(part, target)
                else:
                    try:
                        os.link(part, target)
                    except FileExistsError:
                        return False
                    except OSError as error:
                        if error.errno not in NO_LINKS:
                            raise
                        name = errno.errorcode[error.errno]
                        raise StoreAway(f"{self.place}: {name}: {LINKS_NEEDED}") from error
            finally:
                part.unlink(missing_ok=True)
            sync_folder(target.parent)
        return True

    def find(self, key: str) -> StoredObject | None:
        with self._asking():
            try:
                status = self._path(key).stat()
            except FileNotFoundError:
                return None
        return StoredObject(key, status.st_size, status.st_mtime)

    def content(self, key: str) -> Iterator[memoryview]:
        with self._asking():
            source = self._path(key).open("rb", buffering=0)
        with source:
            while True:
                with self._asking():
                    piece = source.read(FETCH_BYTES)
                if not piece:
                    return
                yield memoryview(piece)

    def checksum_problem(self, key: str, content: bytes) -> str | None:
        """Return None: no checksum is sent, and every file is read back."""

    def sweep(self) -> None:
        with self._asking():
            for part in self._incoming.rglob("*.part"):
                with suppress(FileNotFoundError):
                    if part.parent == self._parts or time.time() - part.stat().st_mtime > PART_SECONDS:
                        part.unlink()

    def delete(self, keys: Sequence[str]) -> None:
        with self._asking():
            touched = set()
            for key in keys:
                path = self._path(key)
                with suppress(FileNotFoundError):
                    path.unlink()
                    touched.add(path.parent)
            for folder in touched:
                sync_folder(folder)

    def objects(self, folder: str) -> Iterator[StoredObject]:
        with self._asking():
            begin = self._path(folder)
        for path in begin.rglob("[!.]*"):  # a removed file that is open on NFS has a dot
            with self._asking():
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
            if not stat.S_ISREG(status.st_mode):
                continue
            yield StoredObject(str(path.relative_to(self._folder)), status.st_size, status.st_mtime)

    def _path(self, key: str) -> Path:
        if not self._folder.is_dir():
            raise StoreAway(f"{self.place} is not there: create it, or mount its file system")
        return self._folder / key

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, StoreAway):
            raise
        except OSError as error:
            raise StoreAway(f"{self.place}: {reason_of(error, self._folder)}") from error


def credentials_of(file: Path) -> S3Credential:
    """Return the keys of a file as ``~/.aws/credentials``: of its section ``default``, or its only one.

    Raises UsageError if the message has nothing of the content.
    """
    import configparser

    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
        names = parser.sections()
        section = parser["default" if "default" in names or len(names) != 1 else names[0]]
        return {
            "access_key_id": section["aws_access_key_id"],
            "secret_access_key": section["aws_secret_access_key"],
            "token": section.get("aws_session_token"),
            "expires_at": dt.datetime.now(dt.UTC) + dt.timedelta(minutes=CREDENTIALS_MINUTES),
        }
    except OSError as error:
        raise UsageError(f"credentials_file {file} cannot be read: {error.strerror}") from None
    except (configparser.Error, KeyError, UnicodeDecodeError):
        raise UsageError(
            f"credentials_file {file} must have aws_access_key_id and aws_secret_access_key below [default]"
        ) from None


def word_of(error: Exception) -> tuple[str, int]:
    """Return the code of an error of the library, and its status; without its text, which has the names of objects."""
    code, status = _CODE.search(str(error)), _STATUS.search(str(error))
    number = int(status[1]) if status else 0
    return code[1] if code else f"status {number}" if number else "no answer", number


def _opened_privately(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
