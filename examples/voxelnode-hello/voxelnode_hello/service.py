"""What the node does every minute."""

from __future__ import annotations

from voxelnode.api import BackgroundService, Ingest

from voxelnode_hello.rows import GreetingRepository
from voxelnode_hello.settings import HelloSettings


class Greeter(BackgroundService):
    """Greets each new study, and adds greetings to the file of [hello]."""

    def __init__(self, settings: HelloSettings, ingest: Ingest) -> None:
        super().__init__("hello")
        self._settings, self._ingest = settings, ingest
        self._greetings = ingest.index.repository(GreetingRepository)

    def step(self) -> float:
        """Greet; return the seconds until the next time."""
        self._greetings.greet(self._settings.greeting, self._ingest.now())
        if self._settings.file is not None:
            with self._settings.file.open("a", encoding="utf-8") as file:
                file.write(f"{self._settings.greeting}\n")
        return 60.0
