"""``[hello]`` of the configuration."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from node.settings.section import SettingsSection


class HelloSettings(SettingsSection):
    """[hello]: who is greeted, and where."""

    name: str = Field("world", max_length=64, description="who is greeted")
    file: Path | None = Field(None, description="file to which the node adds a greeting every minute; unset: none")

    @property
    def greeting(self) -> str:
        """What everybody says who greets."""
        return f"hello, {self.name}"
