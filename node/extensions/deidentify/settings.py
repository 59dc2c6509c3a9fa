"""``[deidentify.NAME]`` of the configuration."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from node.settings.section import SettingsSection

Retained = Literal["safe-private", "uids", "device", "institution", "patient", "full-dates", "modified-dates"]
Cleaned = Literal["descriptors", "structured", "graphics", "pixels"]
AllowedRisk = Literal["secondary-capture", "ultrasound", "photograph", "burned-in", "recognizable", "voice"]


class DeidentifySettings(SettingsSection):
    """[deidentify.NAME]: a way to remove identities, by PS3.15 Annex E, for whatever names it."""

    key: Path = Field(
        examples=["trial.key"],
        description="File of the pseudonyms' key, readable by its owner only: `voxelnode pseudonyms new` makes it.",
    )
    retain: tuple[Retained, ...] = Field((), description="Retained")
    clean: tuple[Cleaned, ...] = Field((), description="Cleaned instead of removed or refused")
    pixel_rules: Path | None = Field(
        None, description="TOML file of what devices burn into pixels; pixels must be in clean."
    )
    burned_in_text: Literal["off", "refuse", "blank"] = Field(
        "off",
        description="Search pixels for text (extra `ocr`), and refuse the instance or blank the text (pixels must be "
        "in clean)",
    )
    allow: tuple[AllowedRisk, ...] = Field((), description="Risks in pixels and sound that pass as they are")

    def _mistakes(self) -> Iterator[str]:
        if {"full-dates", "modified-dates"} <= set(self.retain):
            yield "retain: full-dates and modified-dates exclude each other"
        if self.pixel_rules is not None and "pixels" not in self.clean:
            yield 'pixel_rules requires clean = ["pixels"]'
        if self.burned_in_text == "blank" and "pixels" not in self.clean:
            yield 'burned_in_text = "blank" requires clean = ["pixels"]'
