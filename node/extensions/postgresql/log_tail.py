"""The audit log of a host, read on as it grows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from node.audit.audit_files import audit_files, position_behind


class LogTail:
    """Reads the lines of an audit log behind one of them, also those that are still to be written. Not thread-safe.

    `folder`: the root. `digest`: of the line before the first one; empty, or of a line that is not there: from the
    oldest line on.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder = folder
        path, offset = (position_behind(folder, digest) if digest else None) or (audit_files(folder)[0], 0)
        self._file = path.open("rb")
        self._file.seek(offset)

    def read(self, count: int) -> list[bytes]:
        """Return the next lines, at most `count`; they are durable."""
        lines: list[bytes] = []
        while len(lines) < count:
            following = self._following()
            line = self._file.readline()
            if line.endswith(b"\n"):
                lines.append(line)
            elif line or following is None:
                self._file.seek(-len(line), os.SEEK_CUR)  # the rest of it is yet to come
                break
            else:  # nothing was written to this file any more when the following one began
                self._sync(lines)
                self._file.close()
                self._file = following.open("rb")
        self._sync(lines)
        return lines

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _sync(self, lines: Sequence[bytes]) -> None:
        if lines:
            os.fdatasync(self._file.fileno())

    def _following(self) -> Path | None:
        files = audit_files(self._folder)
        own = os.fstat(self._file.fileno())
        places = [place for place, path in enumerate(files) if os.path.samestat(path.stat(), own)]
        behind = files[places[0] + 1 :] if places else files  # the oldest ones may have been moved elsewhere
        return behind[0] if behind else None
