"""[log]: what the node writes down."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from node.settings.section import SettingsSection


class LogSettings(SettingsSection):
    """[log]: the diagnostic log on standard error; it contains no patient data."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level to log")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="Format of the log; auto: console on a terminal, else json"
    )
    file: Path | None = Field(None, description="File to which `serve` also writes the log, as JSON.")
