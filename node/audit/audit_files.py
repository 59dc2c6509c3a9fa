"""The files of the audit log: `audit.jsonl` grows; full ones are `audit-000001.jsonl` and so on, in one hash chain.

The first line of a file contains the digest of the last line of the file before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from node.durable import sync_folder

FILE_NAME = "audit.jsonl"
FIRST = "0" * 64
"""Digest in the first line of all, which has no predecessor."""

_FULL = re.compile(r"audit-(\d{6,})\.jsonl")


def audit_files(folder: Path) -> list[Path]:
    """Return the files of the audit log of a root, oldest first."""
    current = folder / FILE_NAME
    return [*(path for _, path in _full_files(folder)), *([current] if current.exists() else [])]


def set_full_file_aside(folder: Path) -> None:
    """Give the current file the number after the last one; the caller opens a new one.

    Raises
    ------
    OSError
        Nothing has changed.
    """
    full = _full_files(folder)
    number = full[-1][0] + 1 if full else 1
    os.rename(folder / FILE_NAME, folder / f"audit-{number:06d}.jsonl")
    sync_folder(folder)


def last_line(folder: Path) -> bytes:
    """Return the last line of the audit log, with its line end if it has one, or empty bytes."""
    return next((line for line in map(_last_line, reversed(audit_files(folder))) if line), b"")


def last_lines(folder: Path, count: int) -> list[bytes]:
    """Return the last `count` lines of the audit log, oldest first."""
    lines: list[bytes] = []
    for path in reversed(audit_files(folder)):
        with path.open("rb") as file:
            lines = [*deque(file, count - len(lines)), *lines]
        if len(lines) >= count:
            break
    return lines


def verify(folder: Path) -> list[str]:
    """Return a sentence for each fault in the chain of an audit log, or an empty list if it is intact.

    The oldest file may have been moved elsewhere: the chain begins with the first file that is there.
    """
    problems, previous = [], FIRST
    full = _full_files(folder)
    if full and full[0][0] > 1:
        previous = ""
    for path in audit_files(folder):
        for number, line, digest in _digests(path):
            where = f"line {number}" if not full else f"{path.name} line {number}"
            if digest is None:
                problems.append(f"{where} is not a line of the audit log: torn by a power cut, or inserted")
            elif previous and digest != previous:
                problems.append(f"{where} does not follow the line before it: one was changed or removed")
            previous = hashlib.sha256(line).hexdigest()
    return problems


def _digests(path: Path) -> Iterator[tuple[int, bytes, str | None]]:
    """Yield number and bytes of each line, and the digest that it contains."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line, str(json.loads(line)["previous"])
            except (ValueError, KeyError, TypeError):
                yield number, line, None


def _full_files(folder: Path) -> list[tuple[int, Path]]:
    matches = [(_FULL.fullmatch(path.name), path) for path in folder.glob("audit-*.jsonl")]
    return sorted((int(match[1]), path) for match, path in matches if match is not None)


def _last_line(path: Path) -> bytes:
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        tail = b""
        while position and tail.count(b"\n", 0, -1) < 1:
            step = min(65536, position)
            position = file.seek(position - step)
            tail = file.read(step) + tail
            file.seek(position)
        return tail.splitlines(keepends=True)[-1] if tail else b""
