"""The servers of S3: those of [storage], and of [destinations.NAME] of the kind s3."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field

from node.settings.core import DestinationSettings, Layout, Storage
from node.settings.section import Seconds, SettingsSection

BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/(?!\.{1,2}(/|$))[A-Za-z0-9!_.*'()=@+-]+)*/?")
"""``s3://BUCKET/PREFIX``."""

COLD_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes of S3 whose objects cannot be read before they are restored."""

_FOLDER_URL = re.compile(r"file:///[^?#]+")


class Server(SettingsSection):
    """The server of a bucket."""

    endpoint: str | None = Field(None, description="Server of s3:// as an https:// address; unset: Amazon S3.")
    region: str | None = Field(None, description="Region of the bucket; unset: AWS_REGION, or us-east-1.")
    credentials_file: Path | None = Field(
        None, description="Keys for s3://, like ~/.aws/credentials; unset: the environment, or the role of the machine."
    )
    ca_file: Path | None = Field(None, description="PEM file of another CA for the certificate of endpoint.")

    def _mistakes(self) -> Iterator[str]:
        yield from super()._mistakes()
        if self.endpoint is None:
            return
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.path.strip("/") or parts.query:
            yield "endpoint must begin with https:// or http:// and name a host, without a path"
        if parts.username or parts.password:
            yield "endpoint must not contain keys: use credentials_file"


class StoreSettings(Server, Storage):
    """[storage]: where the archive, the index and the volumes are."""

    storage_class: str | None = Field(
        None,
        pattern="^[A-Z0-9_]{1,40}$",
        description='Class of new objects, such as "STANDARD_IA"; not GLACIER or DEEP_ARCHIVE, which cannot be read '
        "at once.",
    )
    cache_bytes: int = Field(
        20_000_000_000, ge=0, description="Largest size of local copies of objects; copies in use stay beyond it."
    )
    store_seconds: Seconds = Field(60, description="Time limit of a request to the object store.")

    def _mistakes(self) -> Iterator[str]:
        if self.url is not None and not (BUCKET.fullmatch(self.url) or _FOLDER_URL.fullmatch(self.url)):
            yield "url must be s3://BUCKET, s3://BUCKET/PREFIX or file:///FOLDER"
        is_bucket = self.url is not None and self.url.startswith("s3://")
        of_bucket = (*(getattr(self, key) for key in Server.model_fields), self.storage_class)
        if not is_bucket and any(value is not None for value in of_bucket):
            yield "endpoint, region, credentials_file, ca_file and storage_class require an s3:// url"
        if self.storage_class in COLD_CLASSES:
            yield f"storage_class {self.storage_class} needs a restore before each read: GLACIER_IR needs none"
        yield from super()._mistakes()


class BucketSettings(Server, DestinationSettings):
    """[destinations.NAME]: a bucket that gets DICOM files."""

    kind: Literal["s3"] = "s3"
    s3: str = Field(description="s3://BUCKET/PREFIX that gets DICOM files (extra `s3`).")
    layout: Layout = "names"

    def _mistakes(self) -> Iterator[str]:
        if not BUCKET.fullmatch(self.s3):
            yield "s3 must be s3://BUCKET or s3://BUCKET/PREFIX"
        yield from super()._mistakes()
