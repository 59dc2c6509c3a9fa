"""[hooks.NAME]: what every receiver of messages has; each kind adds its own keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from node.selector import FIELDS, compile_selector
from node.settings.section import PeerTitle, Seconds, SettingsSection
from node.settings.where import Where

HookEvent = Literal[
    "instance-stored",
    "series-quiet",
    "volume-written",
    "volume-superseded",
    "verdict-changed",
    "series-failed",
    "study-quiet",
]

RESULT_EVENTS: tuple[HookEvent, ...] = ("series-quiet", "volume-written", "study-quiet")
"""Events to which a hook can give results."""

VOLUME_EVENTS: tuple[HookEvent, ...] = ("volume-written", "volume-superseded", "verdict-changed", "study-quiet")
"""Events of which there is a volume, or may be one."""


class HookSettings(SettingsSection):
    """[hooks.NAME]: a receiver of messages about events, after their commit; its kind says who that is."""

    is_here: ClassVar[bool] = True
    """The receiver runs on this machine: messages name files, and it leaves its results in a folder at once."""

    kind: str = Field(description="What the receiver is: webhook, command, plugin.", examples=["webhook"])
    on: tuple[HookEvent, ...] = Field(min_length=1, description="Events", examples=[["volume-written"]])
    calling_ae_titles: tuple[PeerTitle, ...] | None = Field(
        None, description="Only events of these senders; unset: all."
    )
    where: Where | None = Field(
        None, description='Only series that fit, such as { modality = "CT", slices = ">=50" } (docs/select.md).'
    )
    include_patient: bool = Field(False, description="Include ID, name, birth date and sex of the patient in messages.")
    results: bool = Field(
        False, description="Accept results (masks, reports, documents) for each message (docs/results.md)."
    )
    job_seconds: Seconds = Field(86_400, description="Time limit of a job from the 202 of a webhook to its results.")
    timeout_seconds: Seconds = Field(30, description="Time limit of one attempt.")
    attempts: int = Field(12, ge=1, le=1000, description="Attempts before a message is given up.")

    @property
    def receiver(self) -> str:
        """Who receives the messages, for people."""
        return self.kind

    @property
    def host(self) -> str:
        """The host that messages go to by HTTP; empty: they do not."""
        return ""

    def _mistakes(self) -> Iterator[str]:
        if self.results and (other := [event for event in self.on if event not in RESULT_EVENTS]):
            yield f"results come from {', '.join(RESULT_EVENTS)}, not from {', '.join(other)}"
        fields = compile_selector(self.where).fields if self.where is not None else frozenset()
        of_volumes = sorted(name for name in fields if FIELDS[name].group == "volume")
        if of_volumes and (early := [event for event in self.on if event not in VOLUME_EVENTS]):
            yield (
                f"where uses {', '.join(of_volumes)}, but there is no volume at {', '.join(early)}: use instances or "
                "frames there, or only the events volume-written, volume-superseded, verdict-changed and study-quiet"
            )
