"""What destinations that write files have in common: the names of the files, and what they cannot confirm."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from node.conversion.naming import safe_name
from node.dicom.attributes import attributes_by_windows
from node.errors import NotUnderstood
from node.index.work.routes import DueInstance, OwedInstance
from node.routing.destination import Confirmation, NotTaken, Prepared

NAME_LENGTH = 60


class WrittenDestination:
    """A destination that writes copies by name. It proves that it keeps a copy by reading the copy again."""

    def confirm(
        self, owed: Sequence[OwedInstance], transaction_uid: str, is_abandoned: Callable[[], bool]
    ) -> Confirmation | None:
        """Confirm what was written before the route asked for proof: it is sent, and read, again."""
        return Confirmation(frozenset(), {one.sop_instance_uid: "it was not read again" for one in owed})

    def is_origin(self, due: DueInstance) -> bool:
        """Return False: nothing comes from a folder or a bucket by itself."""
        return False


def file_name(prepared: Prepared, layout: Literal["names", "archive"]) -> Path:
    """Return the relative path of the file of an instance.

    `layout`: ``names``: PATIENT/STUDY/SERIES/INSTANCE; ``archive``: the keys of the archive, which name nobody.

    Raises NotTaken: the copy cannot be read, or its attributes.
    """
    if layout == "archive":
        return Path(prepared.due.key)
    outgoing = prepared.outgoing
    try:
        with outgoing.path.open("rb", buffering=0) as file:

            def read(offset: int, length: int) -> bytes:
                return os.pread(file.fileno(), length, outgoing.offset + offset)

            found = attributes_by_windows(read, outgoing.transfer_syntax_uid)
    except NotUnderstood as error:
        raise NotTaken(f"its attributes cannot be read: {error}", is_final=True) from error
    except OSError as error:
        raise NotTaken(f"its file cannot be read now: {error.strerror}") from error
    study, series, image = found.study, found.series, found.image
    return Path(
        _part(found.patient["patient_id"] or "no-id"),
        _part(study["study_date"], study["study_description"], end=_digest(found.study_instance_uid)),
        _part(
            _number(series["series_number"]), series["series_description"] or series["modality"],
            end=_digest(found.series_instance_uid),
        ),
        f"{_part(_number(image['instance_number']), end=_digest(outgoing.sop_instance_uid))}.dcm",
    )  # fmt: skip


def _part(*values: object, end: str = "") -> str:
    """Return a name of a file or a folder from values that senders chose, and of which only harmless letters remain."""
    name = safe_name(" ".join(str(value) for value in values if value is not None))
    return f"{name[:NAME_LENGTH]}-{end}" if end else name[:NAME_LENGTH]


def _digest(uid: str) -> str:
    """Return eight digits that tell UIDs apart whose other values are the same."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def _number(value: object) -> str | None:
    return f"{value:04d}" if isinstance(value, int) else None
