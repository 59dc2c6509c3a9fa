"""``[hello]`` of the configuration, and tables of the kind greetings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from voxelnode.api import DestinationSettings, HookSettings, SettingsSection


class HelloSettings(SettingsSection):
    """[hello]: who is greeted, and where."""

    name: str = Field("world", max_length=64, description="who is greeted")
    file: Path | None = Field(None, description="file to which the node adds a greeting every minute; unset: none")

    @property
    def greeting(self) -> str:
        """What everybody says who greets."""
        return f"hello, {self.name}"


class GreetingsDestination(DestinationSettings):
    """[destinations.NAME]: a file that gets a line for each instance."""

    kind: Literal["greetings"] = "greetings"
    file: Path = Field(description="file of the lines")


class GreetingsHook(HookSettings):
    """[hooks.NAME]: a file that gets a line for each message."""

    kind: Literal["greetings"] = "greetings"
    file: Path = Field(description="file of the lines")
