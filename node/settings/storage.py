"""[storage] and [journal]: where the files are, and when an instance is acknowledged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field

from node.settings.section import Seconds, SettingsSection

OverwritePolicy = Literal["never", "replace", "keep_both"]
Acknowledge = Literal["local", "index", "object"]

BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/(?!\.{1,2}(/|$))[A-Za-z0-9!_.*'()=@+-]+)*/?")
"""``s3://BUCKET/PREFIX``."""

COLD_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes of S3 whose objects cannot be read before they are restored."""

_FOLDER_URL = re.compile(r"file:///[^?#]+")


def mistakes_of_endpoint(endpoint: str) -> Iterator[str]:
    """Yield what is wrong with the address of a server of S3."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.path.strip("/") or parts.query:
        yield "endpoint must begin with https:// or http:// and name a host, without a path"
    if parts.username or parts.password:
        yield "endpoint must not contain keys: use credentials_file"


class Storage(SettingsSection):
    """[storage]: where the archive, the index and the volumes are."""

    root: Path = Field(Path("voxelnode-data"), description="Folder of the archive, the index and the volumes.")
    reserve_bytes: int = Field(
        2_000_000_000,
        ge=0,
        description="Free disk space below which C-STORE gets 0xA700 and no conversion begins; below twice as much, "
        "no association.",
    )
    overwrite_policy: OverwritePolicy = Field(
        "never",
        description="Whether other bytes with a stored UID replace it; never: they go to quarantine",
    )
    conflict_answer: Literal["success", "warning"] = Field(
        "success",
        description="Answer for an instance that does not become the current version; warning is 0xB000 in C-STORE "
        "and 202 in STOW-RS",
    )
    any_uids: bool = Field(
        False,
        description="Accept UIDs that are not digits and dots (PS3.5 9.1), which are refused (0xC000) otherwise",
    )
    journal_bytes: int = Field(
        1_073_741_824,
        ge=16_777_216,
        le=68_719_476_736,
        description="Largest size of the journal; when it is full, senders wait, and get 0xA700 after 10 s.",
    )

    scrub_days: float = Field(
        30.0,
        ge=0,
        le=3650,
        description="Every file of the archive is read and compared with its SHA-256 once in this time; 0: never.",
    )

    names: str | None = Field(
        None,
        max_length=200,
        description='Template of a tree of links by name, such as "{patient_name}/{series_description}" '
        "(docs/names.md).",
    )
    url: str | None = Field(
        None,
        description="Object store of instances and volumes, s3://BUCKET/PREFIX (extra `s3`) or file:///FOLDER "
        "(docs/object-store.md).",
    )
    endpoint: str | None = Field(None, description="Server of s3:// as an https:// address; unset: Amazon S3.")
    region: str | None = Field(None, description="Region of the bucket; unset: AWS_REGION, or us-east-1.")
    credentials_file: Path | None = Field(
        None,
        description="Keys for s3://, like ~/.aws/credentials; unset: the environment, or the role of the machine.",
    )
    ca_file: Path | None = Field(None, description="PEM file of another CA for the certificate of endpoint.")
    storage_class: str | None = Field(
        None,
        pattern="^[A-Z0-9_]{1,40}$",
        description='Class of new objects, such as "STANDARD_IA"; not GLACIER or DEEP_ARCHIVE, which cannot be read '
        "at once.",
    )
    cache_bytes: int = Field(
        20_000_000_000,
        ge=0,
        description="Largest size of local copies of objects; copies in use stay beyond it.",
    )
    store_seconds: Seconds = Field(60, description="Time limit of a request to the object store.")

    def _mistakes(self) -> Iterator[str]:
        if self.url is not None and not (BUCKET.fullmatch(self.url) or _FOLDER_URL.fullmatch(self.url)):
            yield "url must be s3://BUCKET, s3://BUCKET/PREFIX or file:///FOLDER"
        is_bucket = self.url is not None and self.url.startswith("s3://")
        of_bucket = (self.endpoint, self.region, self.credentials_file, self.ca_file, self.storage_class)
        if not is_bucket and any(value is not None for value in of_bucket):
            yield "endpoint, region, credentials_file, ca_file and storage_class require an s3:// url"
        if self.storage_class in COLD_CLASSES:
            yield f"storage_class {self.storage_class} needs a restore before each read: GLACIER_IR needs none"
        if self.endpoint is not None:
            yield from mistakes_of_endpoint(self.endpoint)

    @property
    def low_bytes(self) -> int:
        """Free space below which new associations are rejected, so that open ones can finish above the reserve."""
        return 2 * self.reserve_bytes


class JournalSettings(SettingsSection):
    """[journal]: when an instance is acknowledged, by C-STORE and STOW-RS."""

    acknowledge: Acknowledge | None = Field(
        None,
        description="What success waits for: the journal of this host, the row in the index, or the object store "
        "(docs/journal.md); unset: index if hosts share index and store, else local",
    )
    acknowledge_seconds: Seconds = Field(
        20,
        description="Longest wait for index or store before the answer is 0xA700; senders must wait longer.",
    )
