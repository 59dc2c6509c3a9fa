"""The files of the audit log: audit.jsonl grows; full ones are ``audit-000001.jsonl`` and so on, in one hash chain.

The first line of a file contains the digest of the last line of the file before it.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from time import monotonic

from node.files.durable import sync_folder

FILE_NAME = "audit.jsonl"
FIRST = "0" * 64
"""Digest in the first line of all, which has no predecessor."""

BLOCK_BYTES = 1 << 20
"""What is read at once, from the end."""

_LEAVING = frozenset({"110104", "110106"})
"""Codes of events by which something leaves: DICOM Instances Transferred and Export (PS3.16 context group 400)."""

_ACCESSED, _LINK = "110103", "link "
"""What is seen by a link may be kept, whatever became of the link; pictures of it are not all of a patient."""

_OF_LEAVING = tuple(f'"{code}"'.encode() for code in _LEAVING)
_OF_EXPORT, _DESTINATION, _MINOR_FAILURE = b'"110106"', "110152", 4

_FULL = re.compile(r"audit-(\d{6,})\.jsonl")


def audit_files(folder: Path) -> list[Path]:
    """Return the files of the audit log of a root, oldest first."""
    current = folder / FILE_NAME
    return [*(path for _, path in _full_files(folder)), *([current] if current.exists() else [])]


def set_full_file_aside(folder: Path) -> None:
    """Give the current file the number after the last one; the caller opens a new one.

    Raises OSError if nothing has changed.
    """
    full = _full_files(folder)
    number = full[-1][0] + 1 if full else 1
    os.rename(folder / FILE_NAME, folder / f"audit-{number:06d}.jsonl")
    sync_folder(folder)


def last_line(folder: Path) -> bytes:
    """Return the last line of the audit log, with its line end if it has one, or empty bytes."""
    return next(_backwards(folder), b"")


def last_lines(folder: Path, count: int) -> tuple[list[bytes], int]:
    """Return the last `count` lines of the audit log, oldest first, and how many it has, without a torn one."""
    total = 0
    for path in audit_files(folder):
        with path.open("rb", buffering=0) as file:
            total += sum(block.count(b"\n") for block in iter(partial(file.read, BLOCK_BYTES), b""))
    return [*islice(_backwards(folder), count)][::-1], total


@dataclass(frozen=True, slots=True)
class Taker:
    """Who was sent something, or took it: the name of a destination, an account or a command, and how."""

    who: str
    how: str
    last_at: str


@dataclass(frozen=True, slots=True)
class Holder(Taker):
    """Who has something of a study.

    `patient_id`: as whose it was sent; None: nobody has recorded that. `remedy`: the line that mends it there.
    """

    patient_id: str | None = None
    study_instance_uid: str = ""
    remedy: str = ""


def takers_of(folder: Path, studies: Collection[str], copies: Iterable[bytes] = ()) -> list[Holder]:
    """Return who has what was sent of studies, as far as the audit log tells; each once, in the order of the first.

    Commands that take everything out of a root, such as backups, name no study: they may have it.

    `copies`: lines of the logs of other hosts.
    """
    takers: dict[Hashable, Holder] = {}
    of_studies = re.compile(b"|".join(re.escape(json.dumps(uid).encode()) for uid in studies) or rb"(?!)")
    for line in chain(_lines(folder), copies):
        if of_studies.search(line) or (_OF_EXPORT in line and b'"objects": []' in line):
            for taker in _takers_in(line, studies):
                key = taker.who, taker.how, taker.patient_id, taker.study_instance_uid
                takers[key] = max(takers.get(key, taker), taker, key=lambda one: one.last_at)
    return list(takers.values())


def patients_sent(folder: Path) -> dict[str, list[str]]:
    """Return by study the Patient IDs with which it has left, as far as the audit log tells."""
    found: dict[str, dict[str, None]] = {}
    for line in _lines(folder):
        for taker in _takers_in(line, None) if any(code in line for code in _OF_LEAVING) else ():
            found.setdefault(taker.study_instance_uid, {})[taker.patient_id or ""] = None
    return {study: [*filter(None, ids)] for study, ids in found.items()}


def lines_naming(folder: Path, text: str, deadline: float) -> Iterator[bytes]:
    """Yield the lines that have a text as a value, newest first, until `deadline` of the monotonic clock.

    Raises OSError if the disk fails.
    """
    return _backwards(folder, json.dumps(text, ensure_ascii=False).encode(errors="backslashreplace"), deadline)


def _backwards(folder: Path, wanted: bytes = b"", deadline: float = math.inf) -> Iterator[bytes]:
    """Yield the lines with some bytes, each with its line end, newest first, until `deadline`."""
    for path in reversed(audit_files(folder)):
        with path.open("rb") as file:
            end, begun = file.seek(0, os.SEEK_END), b""
            while end:
                start = max(0, end - BLOCK_BYTES)
                file.seek(start)
                block = file.read(end - start) + begun
                begin = block.find(b"\n") + 1 or len(block) if start else 0
                begun, lines = block[:begin], block[begin:]
                if wanted in lines:
                    yield from (line for line in reversed(lines.splitlines(keepends=True)) if wanted in line)
                if monotonic() > deadline:
                    return
                end = start


def _lines(folder: Path) -> Iterator[bytes]:
    for path in audit_files(folder):
        with path.open("rb") as file:
            yield from file


def _takers_in(text: bytes, studies: Collection[str] | None) -> Iterator[Holder]:
    try:
        line = json.loads(text)
        named = [(each.get("patient_id"), each.get("study_instance_uid")) for each in line["objects"]]
        code, people = line["event"]["code"], line["participants"]
        is_by_link = code == _ACCESSED and people[0]["user"].startswith(_LINK) and None not in named[0]
        if not (code in _LEAVING or is_by_link) or line["action"] != "R" or line["outcome"] > _MINOR_FAILURE:
            return
        how = line["event"]["meaning"] if named else re.sub(r": (begun|done, .*|broken off)$", "", line["detail"])
        for one in [each for each in people if each["role"] == _DESTINATION] or [
            each for each in people if each["requestor"]
        ]:
            who = f"{one['user']} {one['address']}".strip()
            for patient_id, study in named or [(None, "")]:
                if studies is None or study in studies or not named:
                    yield Holder(who, how, line["at"], patient_id, study)
    except (ValueError, TypeError, LookupError, AttributeError):  # torn by a power cut, or of another version
        return


def verify(folder: Path) -> list[str]:
    """Return a sentence for each fault in the chain of an audit log, or an empty list if it is intact.

    The oldest file may have been moved elsewhere: the chain begins with the first file that is there.
    """
    problems, previous = [], FIRST
    full = _full_files(folder)
    if full and full[0][0] > 1:
        previous = ""
    for path in audit_files(folder):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                digest, where = _digest_in(line), f"line {number}" if not full else f"{path.name} line {number}"
                if digest is None:
                    problems.append(f"{where} is not a line of the audit log: torn by a power cut, or inserted")
                elif previous and digest != previous:
                    problems.append(f"{where} does not follow the line before it: one was changed or removed")
                previous = digest_of(line)
    return problems


def copy_problems(copies: Iterable[tuple[int, bytes]]) -> Iterator[str]:
    """Yield a sentence for each fault in the chain of a copy of a log: its lines with their numbers, in their order."""
    before, previous = 0, ""
    for number, line in copies:
        digest = _digest_in(line)
        if previous and number != before + 1:
            yield f"lines {before + 1} to {number - 1} are missing"
        elif digest is None:
            yield f"line {number} is not a line of the audit log: torn by a power cut, or inserted"
        elif previous and digest == FIRST:
            yield f"line {number} begins a new log: the root of the host is new, or its log was removed"
        elif previous and digest != previous:
            yield f"line {number} does not follow the line before it: one was changed or removed"
        before, previous = number, digest_of(line)


def digest_of(line: bytes) -> str:
    """Return the digest that the line behind this one contains."""
    return hashlib.sha256(line).hexdigest()


def position_behind(folder: Path, digest: str) -> tuple[Path, int] | None:
    """Return the file of a log and the offset in it behind the line with a digest; None if there is no such line."""
    for path in reversed(audit_files(folder)):
        with path.open("rb") as file:
            offset = 0
            for line in file:
                offset += len(line)
                if digest_of(line) == digest:
                    return path, offset
    return None


def _digest_in(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["previous"])
    except (ValueError, KeyError, TypeError):
        return None


def _full_files(folder: Path) -> list[tuple[int, Path]]:
    matches = [(_FULL.fullmatch(path.name), path) for path in folder.glob("audit-*.jsonl")]
    return sorted((int(match[1]), path) for match, path in matches if match is not None)
