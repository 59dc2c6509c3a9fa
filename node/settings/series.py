"""[series] and [retention]: when a series is quiet, and when a study is deleted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from node.settings.section import Days, Seconds, SettingsSection
from node.settings.where import Where

QuietTime = Seconds | Literal["auto"]


class SeriesSettings(SettingsSection):
    """[series]: when a series is quiet, and is therefore converted."""

    quiet_seconds: QuietTime = Field(
        60.0,
        description='Time without a new instance after which a series is converted; "auto": learnt from the sender.',
    )
    quiet_seconds_by_calling_ae_title: dict[str, QuietTime] = Field(
        {}, description='quiet_seconds for single senders, such as { SLOWPACS = 300, CT1 = "auto" }.'
    )
    aborted_grace_seconds: Seconds = Field(
        300, description="The same after an association that was not released: the sender may reconnect."
    )
    force_complete_after_seconds: Seconds = Field(
        5400, description="Time after the first instance at which a series is converted even if more arrive."
    )
    study_quiet_seconds: Seconds = Field(900, description="Time after the last conversion at which a study is quiet.")


class RetentionSettings(SettingsSection):
    """[retention]: automatic deletion of whole studies, by default of none, and the trash."""

    days: Days | None = Field(
        None, description="Days without a new instance after which a study is deleted with its volumes; unset: never."
    )
    days_by_calling_ae_title: dict[str, Days | Literal["never"]] = Field(
        {}, description='days for single senders, such as { CT1 = 30, RESEARCH = "never" }.'
    )
    maximum_studies: int | None = Field(
        None, ge=1, description="Most studies to keep; those without new instances for longest are deleted first."
    )
    only_converted: bool = Field(True, description="Keep a study while any of its series waits, was refused or failed.")
    keep_where: Where | None = Field(
        None, description='Series whose studies are never deleted, such as { modality = "MR" } (docs/select.md).'
    )
    maximum_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Largest share of all studies that one pass deletes; more waits for `voxelnode retention confirm`.",
    )
    dry_run: bool = Field(False, description="Only log what would be deleted.")
    trash_days: float = Field(7, ge=0, description="Days in which a deletion can be undone; 0: none.")
    trash_gives_way: bool = Field(
        False, description="Empty the trash before its time if the disk is short of room, the oldest deletions first."
    )

    @property
    def is_by_sender(self) -> bool:
        """Whether it matters who sent a study."""
        return bool(self.days_by_calling_ae_title)

    @property
    def is_active(self) -> bool:
        """Whether any rule may delete a study."""
        return self.days is not None or bool(self.days_by_calling_ae_title) or self.maximum_studies is not None
