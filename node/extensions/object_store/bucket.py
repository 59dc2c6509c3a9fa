"""A bucket of S3 as an object store, and the store that [storage] url names.

In a bucket, the store checks each upload by its SHA-256. Objects have the digest of their data set as metadata
(``x-amz-meta-sha256``). The synchronous calls of the library are used, from threads: after its asynchronous ones, one
process in six aborts at its end (obstore 0.12.1). It is imported when a store is opened, and by nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.extensions.object_store.stores import (
    FETCH_BYTES,
    PART_BYTES,
    FolderStore,
    ObjectNotTaken,
    ObjectStore,
    StoredObject,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential, S3Store

    from node.extensions.object_store.settings import StoreSettings


import datetime as dt
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from node.archive.base import ArchivedFile, StoreAway, is_of_revision
from node.errors import UsageError

RETRIES: RetryConfig = {"max_retries": 2, "retry_timeout": dt.timedelta(seconds=10)}
"""Of the library, for errors that pass at once."""


CREDENTIALS_MINUTES = 5
"""Time after which a file of credentials is read again."""


FALSE_CHECKSUMS = {"x-amz-checksum-sha256": b64encode(bytes(32)).decode(), "content-md5": b64encode(bytes(16)).decode()}
"""Headers that an upload of any bytes must not pass with: the one that uploads have, and the one of every S3."""


_CODE = re.compile(r"<Code>(\w{1,60})</Code>")


_STATUS = re.compile(r"status code: (\d{3})")


REMEDIES = {
    "NoSuchBucket": "create the bucket, or correct its name",
    **dict.fromkeys(
        ("AccessDenied", "status 403"),
        "the credentials need s3:PutObject, s3:GetObject, s3:DeleteObject and s3:ListBucket on the bucket",
    ),
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch"), "correct the credentials"),
    **dict.fromkeys(("ExpiredToken", "InvalidToken"), "renew the credentials"),
    "RequestTimeTooSkewed": "set the clock of this machine",
    **dict.fromkeys(("PermanentRedirect", "AuthorizationHeaderMalformed"), "set region to that of the bucket"),
    "InvalidStorageClass": "correct [storage] storage_class",
    "InvalidObjectState": "restore the object, and end the rule of the bucket that moved it to a class without reads",
}
"""Codes of errors that say something of the bucket or of our access to it, not of an object."""


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
