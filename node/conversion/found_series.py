"""The series of files on a disk: grouped by their UIDs, and joined where several are one acquisition."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from node.conversion.job import Joined
from node.dicom.attributes import instance_attributes
from node.dicom.header import HeaderCut, read_every, read_header
from node.errors import NotUnderstood
from node.receive.dicom_files import MediaFile, SkippedFile, find_instances

if TYPE_CHECKING:
    from node.conversion.acquisition import FrameHeader
    from node.selector import Facts


HEAD_BYTES = (1 << 16, 1 << 20, 16 << 20)
"""Sizes of the beginning of a file in which the attributes of its series are looked for."""

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
"""Enhanced MR Image Storage."""

SHARED = ("frame_of_reference_uid", "protocol_name", "series_description", "manufacturer", "manufacturer_model_name")
"""Attributes that series of one acquisition have in common."""


Read = TypeVar("Read")


@dataclass(slots=True)
class FolderSeries:
    """The files of one series, and its attributes by the first file that can be understood.

    `folder`: that of its study, relative to OUT. `name`: what the names of its files begin with.
    `file_names`: what the input calls each file; empty if nobody may know.
    `facts`: what a selector compares, if there is one.
    `lacks`: by the names of files of earlier runs that stay, how many instances these have that the series lacks.
    """

    study_instance_uid: str
    series_instance_uid: str
    attributes: dict[str, Any]
    instances: list[tuple[str, Path]] = field(default_factory=list)
    transfer_syntax_uids: set[str] = field(default_factory=set)
    sop_class_uids: set[str] = field(default_factory=set)
    folder: str = ""
    name: str = ""
    joined: Joined | None = None
    file_names: dict[Path, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)
    lacks: dict[str, int] = field(default_factory=dict)

    @property
    def is_described(self) -> bool:
        """Whether a file could be understood; else only the UIDs are known."""
        return "modality" in self.attributes

    @property
    def path(self) -> str:
        """The name of the series behind the folder of its study."""
        return f"{self.folder}/{self.name}" if self.folder else self.name

    @property
    def person(self) -> tuple[str, str]:
        """The Patient ID, or else the name: people differ in it."""
        patient_id = self.attributes.get("patient_id") or ""
        return patient_id, "" if patient_id else self.attributes.get("patient_name") or ""

    @property
    def owner(self) -> str:
        """The UID by which its files are known again: of the series, or of the only instance of one without a UID."""
        return self.series_instance_uid or self.instances[0][0]

    @property
    def count(self) -> int:
        """The number of its instances; copies of one instance are one."""
        return len({sop_instance_uid for sop_instance_uid, _ in self.instances})

    @property
    def order(self) -> tuple[str, str, str, int, str]:
        """In the order of their studies, and in these of their numbers, wherever the files were found."""
        number = self.attributes.get("series_number")
        day, hour = (str(self.attributes.get(column) or "") for column in ("study_date", "study_time"))
        return day, hour, self.study_instance_uid, 0 if number is None else number, self.series_instance_uid


def attributes_of_series(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the attributes of each series, by the columns of `node.dicom.attributes`, with the number of ``instances``.

    They are those of one file of each series; texts that people typed and names of patients are among them.
    """
    for series in grouped_series(paths, None, []).values():
        yield {**series.attributes, "instances": series.count}


def joined_series(all_series: list[FolderSeries]) -> list[FolderSeries]:
    """Return the series with those that are one acquisition as one, at the place of the first."""
    alike: dict[tuple[Any, ...], list[FolderSeries]] = {}
    for series in all_series:
        if series.attributes.get("modality") == "MR" and series.series_instance_uid:
            shared = tuple(series.attributes.get(name) for name in SHARED)
            alike.setdefault((series.study_instance_uid, *shared), []).append(series)
    candidates = [own for own in alike.values() if len(own) > 1]
    if not candidates:
        return all_series
    from node.conversion.acquisition import find_acquisitions  # here: it loads pydicom

    joined: dict[int, FolderSeries | None] = {}
    for own in candidates:
        headers = {number: list(_headers_of(series)) for number, series in enumerate(own)}
        for acquisition in find_acquisitions(headers):
            parts = [own[number] for number in acquisition.series]
            first = replace(
                parts[0],
                instances=[instance for series in parts for instance in series.instances],
                transfer_syntax_uids=set().union(*(series.transfer_syntax_uids for series in parts)),
                sop_class_uids=set().union(*(series.sop_class_uids for series in parts)),
                file_names={path: name for series in parts for path, name in series.file_names.items()},
                joined=Joined(tuple(series.series_instance_uid for series in parts), acquisition.proof),
            )
            joined |= {id(series): None for series in parts} | {id(parts[0]): first}
    return [one for series in all_series if (one := joined.get(id(series), series)) is not None]


def _headers_of(series: FolderSeries) -> Iterator[FrameHeader | None]:
    """Yield the header of each frame of a series; None for a file that cannot be read, or is no MR image in a place."""
    from node.conversion.acquisition import TAGS, TAGS_IN_GROUPS, header_of, headers_of_frames

    tags, in_groups = frozenset(TAGS.values()), frozenset(TAGS_IN_GROUPS.values())
    for file in find_instances(path for _, path in series.instances):
        if isinstance(file, SkippedFile):
            yield None
        elif file.identity.sop_class_uid == ENHANCED_MR:
            values = _read_head(file, partial(read_every, wanted=in_groups))
            yield from (None if values is None else headers_of_frames(values)) or (None,)
        else:
            elements = _read_head(file, partial(read_header, wanted=tags))
            yield None if elements is None else header_of(elements)


def grouped_series(
    paths: Iterable[Path], unpacked: Path | None, not_dicom: list[dict[str, str]]
) -> dict[tuple[str, str], FolderSeries]:
    """Group files by study and series, in order of first appearance; unpack members of zip files into `unpacked`."""
    grouped: dict[tuple[str, str], FolderSeries] = {}
    for number, file in enumerate(find_instances(paths)):
        if isinstance(file, SkippedFile):
            not_dicom.append({"name": file.name, "reason": file.reason})
            continue
        path = file.path or Path(unpacked or "", f"{number}.dcm")
        if file.path is None and unpacked is not None:
            try:
                file.copy_to(path)
            except OSError as error:
                not_dicom.append({"name": file.name, "reason": str(error)})
                continue
        identity = file.identity
        uids = identity.study_instance_uid, identity.series_instance_uid
        # Without a Series Instance UID, two files may be of different patients: each is a series of its own.
        key = uids if identity.series_instance_uid else (identity.study_instance_uid, f"file {number}")
        if key not in grouped:
            grouped[key] = FolderSeries(*uids, _attributes(file))
        elif not grouped[key].is_described:
            grouped[key].attributes = {**_attributes(file), "folder": grouped[key].attributes["folder"]}
        grouped[key].instances.append((identity.sop_instance_uid, path))
        grouped[key].file_names[path] = file.name
        grouped[key].transfer_syntax_uids.add(identity.transfer_syntax_uid)
        grouped[key].sop_class_uids.add(identity.sop_class_uid)
    return grouped


def _attributes(file: MediaFile) -> dict[str, Any]:
    """Return the attributes of a series by the columns of `node.dicom.attributes`, from one of its files.

    Of a data set that cannot be understood, there are the UIDs only; its conversion says what is wrong with it.
    """
    identity = file.identity
    known = {
        "series_instance_uid": identity.series_instance_uid,
        "study_instance_uid": identity.study_instance_uid,
        "sop_class_uid": identity.sop_class_uid,
        "folder": Path(file.name.rpartition("!")[0] or file.name).parent.name,
    }
    found = _read_head(file, instance_attributes)
    return known if found is None else {**found.patient, **found.study, **found.series, **known}


def _read_head(file: MediaFile, read: Callable[..., Read]) -> Read | None:
    """Return the result of `read`, such as `read_header`, for the beginning of a data set; None if it is damaged."""
    for size in HEAD_BYTES:
        try:
            with file.open_file() as stream:
                stream.read(file.identity.data_set_offset)
                head = stream.read(size)
                return read(head, file.identity.transfer_syntax_uid, is_cut=len(head) == size)
        except HeaderCut:
            continue
        except (OSError, NotUnderstood, zipfile.BadZipFile, zlib.error, EOFError):
            break
    return None
