"""The clock of a process, set by a file; see clock.c."""

import os
from pathlib import Path

from tests.crash.disk import compiled

SOURCE = Path(__file__).with_name("clock.c")


class ShiftedClock:
    """What a process must have in its environment so that its clock is ahead of that of the machine, or behind it.

    `folder` is where the library is built, and has the file that sets the clock.
    """

    def __init__(self, folder: Path) -> None:
        self._library, self._file = compiled(SOURCE, folder), folder / "ahead"
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set the clock of the processes, also of those that run, to so many seconds from now."""
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT)
        try:
            os.pwrite(descriptor, (seconds * 10**9).to_bytes(8, "little", signed=True), 0)
        finally:
            os.close(descriptor)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "CLOCK_FILE": str(self._file)}
