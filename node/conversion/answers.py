"""The answer of a converting child, as JSON, and its checks in the node.

Whoever made the data may have taken over the child. Its answer is therefore checked against the job and the folder: it
can describe wrong voxels, but no file elsewhere, and no instance of another series.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from node.children.messages import WrongType, of_type
from node.conversion.job import ConversionJob, Converted
from node.dicom.attributes import is_identifier
from node.errors import VoxelnodeError
from node.index.nouns.converted import ConvertedFile

MAX_INTEGER = (1 << 63) - 1
"""Largest integer of SQLite."""

_WORD = re.compile(r"[A-Za-z0-9_.-]{0,100}")
_PLAIN = re.compile(r"[ -~]{0,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class NoAnswer(VoxelnodeError):
    """The answer of a converting child cannot be believed."""


def write_answer(converted: Converted) -> bytes:
    """Return a result as JSON."""
    return json.dumps(asdict(converted), separators=(",", ":")).encode()


def read_answer(content: bytes, job: ConversionJob) -> Converted:
    """Return the result that a child gave for a job.

    Raises NoAnswer if it is not of the right form, names files or instances of another job, or the folder holds other
    files.
    """
    try:
        converted: Converted = of_type(Converted, json.loads(content, parse_int=_integer))
    except WrongType as error:
        raise NoAnswer(str(error)) from None
    except (ValueError, RecursionError):
        raise NoAnswer("it is not JSON") from None
    files = job.files
    if strangers := set(_uids(converted)) - set(files.values()):
        raise NoAnswer(f"it names {len(strangers)} instances that are not of the series")
    if any(one.file is not None and files.get(Path(one.file)) != one.sop_instance_uid for one in converted.exclusions):
        raise NoAnswer("it excludes a file that is not of its instance")
    if not all(is_identifier(uid) and (not study or is_identifier(study)) for study, uid in converted.references):
        raise NoAnswer("it refers to a series by a value that is not a UID")
    _check_files(converted, job.folder)
    return converted


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) > MAX_INTEGER:
        raise ValueError
    return number


def _uids(converted: Converted) -> Iterator[str]:
    yield from (uid for _, uid, _ in converted.sources)
    yield from (exclusion.sop_instance_uid for exclusion in converted.exclusions)
    yield from (uid for refusal in converted.refusals for uid in refusal.sop_instance_uids)
    yield from (uid for uid, _ in converted.damaged)


def _check_files(converted: Converted, folder: Path) -> None:
    """Raise `NoAnswer` unless all that is in the folder are regular files, among them those of the answer, in full."""
    lengths = {}
    for path in folder.iterdir():
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise NoAnswer("its folder holds something that is not a file of its own")
        lengths[path.name] = status.st_size
    for file in converted.files:
        if file.path not in lengths:
            raise NoAnswer("it names a file that is not in its folder")
        words = file.suffix, file.kind, file.format, file.dtype, file.geometry, file.orientation or ""
        if not all(map(_WORD.fullmatch, words)) or not _SHA256.fullmatch(file.sha256):
            raise NoAnswer("a file has a kind, format or digest that is not valid")
        _check_scan(file)


def _check_scan(file: ConvertedFile) -> None:
    """Raise `NoAnswer` unless what describes the scan of a file are finite numbers and short plain texts."""
    texts = file.sequence, file.weighting, file.contrast_agent, file.convolution_kernel
    if not all(_PLAIN.fullmatch(text or "") for text in texts):
        raise NoAnswer("a file has a description of its scan that is not valid")
    affine = file.affine_lps or ()
    if affine and (len(affine) != 4 or any(len(row) != 4 for row in affine)):
        raise NoAnswer("a file has an affine that is not valid")
    numbers = (
        file.slice_thickness_mm, file.repetition_time_ms, file.echo_time_ms, file.inversion_time_ms,
        file.flip_angle_degrees, file.magnetic_field_strength_t, *chain.from_iterable(affine),
    )  # fmt: skip
    if not all(math.isfinite(number or 0) for number in numbers):
        raise NoAnswer("a file has a number that is not valid")
