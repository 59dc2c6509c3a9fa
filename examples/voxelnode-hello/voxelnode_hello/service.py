"""What the node does every minute."""

from __future__ import annotations

from node.background import BackgroundService
from voxelnode_hello.settings import HelloSettings


class Greeter(BackgroundService):
    """Adds greetings to the file of [hello]."""

    def __init__(self, settings: HelloSettings) -> None:
        super().__init__("hello")
        self._settings = settings

    def step(self) -> float:
        """Greet; return the seconds until the next time."""
        if self._settings.file is not None:
            with self._settings.file.open("a", encoding="utf-8") as file:
                file.write(f"{self._settings.greeting}\n")
        return 60.0
