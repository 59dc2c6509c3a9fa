"""[routes.NAME] and [destinations.NAME]: what is sent on, and to whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from node.errors import UsageError
from node.selector import FIELDS, compile_selector
from node.settings.section import HookName, Hours, Seconds, SettingsSection
from node.settings.where import Where

RouteEvent = Literal["instance-stored", "series-quiet", "series-complete", "volume-written", "study-quiet"]


Layout = Annotated[
    Literal["names", "archive"],
    Field(description="Names of files: PATIENT/STUDY/SERIES/INSTANCE, or those of the archive, which name nobody"),
]


class DestinationSettings(SettingsSection):
    """[destinations.NAME]: a receiver of routes that is not in [peers]; its kind says what it is."""

    takes_instances: ClassVar[bool] = True
    """Whether it is sent instances, by a route or by hand; otherwise it follows the node in its own way."""

    kind: str = Field(description="What the destination is: dicomweb, s3, folder, bids.", examples=["dicomweb"])
    timeout_seconds: Seconds = Field(60, description="Longest wait for a server.")

    @property
    def folder_of(self) -> Path | None:
        """The folder that must be there before anything is written."""
        return None

    @property
    def address(self) -> str:
        """The address of a server that might be this node; empty: there is none."""
        return ""


class Route(SettingsSection):
    """[routes.NAME]: copies of instances that are sent on to other nodes, after their commit."""

    when: RouteEvent = Field("series-complete", description="When to send")
    where: Where | None = Field(
        None, description='Only series that fit, such as { modality = "CT", body_part = "CHEST" } (docs/select.md).'
    )
    otherwise: tuple[HookName, ...] | None = Field(
        None, description="Other routes with the same when: send only series that none of them selects."
    )
    to: tuple[str, ...] = Field(
        min_length=1, description="Names of [peers] with a host, or of [destinations].", examples=[["CLOUD"]]
    )
    priority: Literal["high", "medium", "low"] = Field(
        "medium", description="Order among routes to one destination, and priority of C-STORE requests"
    )
    between: Hours | None = Field(
        None, description='Hours of sending in the local time zone, such as "20:00-06:00"; unset: always.'
    )
    transfer_syntax: Literal["keep", "uncompressed", "jpeg2000-lossless"] = Field(
        "keep", description="Encoding of the copies; a peer that does not accept it gets them uncompressed"
    )
    set: dict[str, str] = Field(
        {}, description='Attributes of the copies, such as { InstitutionName = "", PatientID = "SITE1-{PatientID}" }.'
    )
    replace: dict[str, str] = Field({}, description="The same, only for attributes that the original has.")
    remove: tuple[str, ...] = Field(
        (), description='Keywords or tags, such as "(0009,1010)", that the copies lack at every level.'
    )
    deidentify: HookName | None = Field(
        None,
        description="Table [deidentify.NAME] that removes identities from the copies, before set, replace and remove.",
    )
    confirm: bool = Field(False, description="Ask whether the destination keeps what it took, and send the rest again.")
    delete_confirmed: bool = Field(
        False, description="Delete a series once every destination has confirmed it; requires confirm."
    )
    attempts: int = Field(
        12,
        ge=1,
        le=1000,
        description="Attempts to send what a destination refuses or loses; an unreachable one is tried without limit.",
    )

    def _mistakes(self) -> Iterator[str]:
        if self.delete_confirmed and not self.confirm:
            yield "delete_confirmed requires confirm = true: nothing is deleted without proof"
        if self.delete_confirmed and self.deidentify is not None:
            yield "delete_confirmed and deidentify exclude each other: nobody would keep the originals"
        if self.between is not None and len(set(self.between.split("-"))) == 1:
            yield "between must begin and end at different times"
        if len(set(self.to)) < len(self.to):
            yield "to names a destination twice"
        if self.set or self.replace or self.remove:
            from node.dicom.coercion import Coercion  # here: it loads the dictionary of pydicom

            try:
                Coercion.of(self.set, self.replace, self.remove)
            except UsageError as error:
                yield str(error)
        fields = compile_selector(self.where).fields if self.where is not None else frozenset()
        of_volumes = sorted(name for name in fields if FIELDS[name].group == "volume")
        if of_volumes and self.when in ("instance-stored", "series-quiet"):
            yield (
                f"where uses {', '.join(of_volumes)}, but there is no volume at {self.when}: use instances or frames, "
                'or when = "series-complete", "volume-written" or "study-quiet"'
            )
