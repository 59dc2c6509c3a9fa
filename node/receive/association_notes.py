"""A file of the open associations that have brought instances: what a start after a crash knows of them.

A crash of the node cuts its associations off, and nobody is left to record that they were not released: a series of
which the rest never came would be called complete. So the first instance of each series of an association appends a
line, before its acknowledgement, and the end of the association another one. Nothing is synced: a process that is
killed loses nothing of it, and a power cut at most the lines of the last seconds. A lost first line hides that an
association was cut off; a lost end line raises a doubt about series that were whole, until their sender repeats them.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from node.index.nouns.converted import SeriesKey

NOTES_FILE = "associations"
"""In the root; its lines are ``[association, calling AE title, study, series]``, or ``[association]`` at its end."""

MAX_NOTES_BYTES = 1 << 20
"""A longer file is written again with the lines of open associations, if it is twice as long as after the last time."""


class AssociationNotes:
    """The lines of one root, which this process has locked. Not thread-safe.

    Attributes
    ----------
    left : dict
        What the associations of the process before had brought that had not ended with it, by name: the calling AE
        title and the series.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / NOTES_FILE
        self.left: dict[str, tuple[str, set[SeriesKey]]] = {}
        with suppress(OSError):
            for line in self._path.read_bytes().splitlines():
                self._read(line)
        self._open: dict[str, list[bytes]] = {}
        self._bytes, self._limit = 0, MAX_NOTES_BYTES
        self._is_torn = False  # a line is lost or cut: the file is to be written again

    def _read(self, line: bytes) -> None:
        try:
            name, *rest = json.loads(line)
            if not rest:
                self.left.pop(name, None)
                return
            title, study, series = rest
        except (ValueError, TypeError):  # cut by the crash
            return
        self.left.setdefault(name, (title, set()))[1].add((study, series))

    def forget_left(self) -> None:
        """Forget the associations of the process before, once the index has how they ended."""
        self.left.clear()
        self._write_again()

    def brought(self, association: str, calling_ae_title: str, series: SeriesKey) -> None:
        """Note the first instance of a series that an association has brought."""
        line = json.dumps([association, calling_ae_title, *series]).encode() + b"\n"
        self._open.setdefault(association, []).append(line)
        self._note(line)

    def ended(self, association: str) -> None:
        """Note the end of an association."""
        if self._open.pop(association, None) is not None:
            self._note(json.dumps([association]).encode() + b"\n")

    def _note(self, line: bytes) -> None:
        """Add a line, or write the file again from what is open, which says the same."""
        is_due = self._is_torn or not self._open or self._bytes >= self._limit
        if not (is_due and self._write_again()):
            self._append(line)

    def _append(self, line: bytes) -> None:
        if self._is_torn:  # what stands there of the line before spoils no other
            line = b"\n" + line
        # On a full disk, for example, a crash is not noticed, and nothing else fails.
        try:
            with self._path.open("ab", buffering=0) as file:
                written = file.write(line)
        except OSError:
            written = 0
        self._bytes += written
        self._is_torn |= written < len(line)

    def _write_again(self) -> bool:
        """Write the lines of the open associations alone; return whether that succeeded."""
        lines = b"".join(line for lines in self._open.values() for line in lines)
        try:
            if lines:
                new = self._path.with_suffix(".new")
                new.write_bytes(lines)
                new.replace(self._path)
            elif self._path.exists():
                os.truncate(self._path, 0)
        except OSError:
            is_written = False
        else:
            is_written, self._is_torn, self._bytes = True, False, len(lines)
        # As many bytes of lines come before the next time, so that many open associations make no line dear.
        self._limit = max(MAX_NOTES_BYTES, 2 * self._bytes)
        return is_written
