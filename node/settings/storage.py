"""[storage] and [journal]: where the files are, and when an instance is acknowledged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from node.settings.section import Seconds, SettingsSection

OverwritePolicy = Literal["never", "replace", "keep_both"]
Acknowledge = Literal["local", "index", "object"]


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
        "never", description="Whether other bytes with a stored UID replace it; never: they go to quarantine"
    )
    conflict_answer: Literal["success", "warning"] = Field(
        "success",
        description="Answer for an instance that does not become the current version; warning is 0xB000 in C-STORE "
        "and 202 in STOW-RS",
    )
    any_uids: bool = Field(
        False, description="Accept UIDs that are not digits and dots (PS3.5 9.1), which are refused (0xC000) otherwise"
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
        20, description="Longest wait for index or store before the answer is 0xA700; senders must wait longer."
    )
