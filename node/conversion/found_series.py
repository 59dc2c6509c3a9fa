"""The series of files on a disk: grouped by their UIDs, joined where several are one acquisition, and chosen.

`FilesOfSeries` tells what became of each file: every one has one fate, and the sums are as many as were found.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from node.conversion.job import Converted, Joined
from node.dicom.attributes import instance_attributes
from node.dicom.header import read_every, read_header
from node.dicom.walker import HeaderCut
from node.errors import NotUnderstood, UsageError
from node.receive.dicom_files import MediaFile, SkippedFile, find_instances
from node.volume.reasons import Exclusion, Reason, Refusal

if TYPE_CHECKING:
    from node.conversion.acquisition import FrameHeader
    from node.selector import Facts, Selector

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


ATTRIBUTES = (
    "patient_id", "patient_name", "patient_birth_date", "patient_sex", "study_instance_uid", "study_date",
    "study_description", "study_id", "accession_number", "referring_physician_name", "series_instance_uid", "modality",
    "series_number", "series_description", "series_date", "laterality", "protocol_name", "manufacturer",
    "manufacturer_model_name", "station_name",
)  # fmt: skip
"""Fields of selectors that are columns of `node.dicom.attributes` as well."""

KNOWN = frozenset((*ATTRIBUTES, "body_part", "instances"))
"""Fields of selectors that are known before the conversion."""


def fields_told() -> frozenset[str]:
    """Return the fields that the conversion tells."""
    from node.selector.fields import FIELDS

    return frozenset({"verdict", "failures", *(name for name, field in FIELDS.items() if field.group == "volume")})


def known_facts(attributes: Mapping[str, Any], instances: int) -> Facts:
    """Return the facts of a series by the names of `KNOWN`, from the columns of `node.dicom.attributes`."""
    facts = {name: attributes.get(name) for name in ATTRIBUTES}
    return {**facts, "body_part": attributes.get("body_part_examined"), "instances": instances}


def told_facts(converted: Converted) -> Facts:
    """Return the facts of a series by the names of `fields_told`, as an index has them of its newest revision."""
    from node.selector.fields import FIELDS, grid_fields

    volumes = [file for file in converted.files if file.kind == "volume"]
    facts: dict[str, Any] = {name: [] if FIELDS[name].several else None for name in fields_told()}
    facts["volumes"] = len({file.stack for file in volumes})
    facts["verdict"] = converted.completeness.state
    facts["failures"] = sorted({refusal.reason.value for refusal in converted.refusals})
    facts["warnings"] = sorted({warning for file in volumes for warning in file.warnings})
    if volumes:
        largest = min(volumes, key=lambda file: (-math.prod(file.shape), file.stack))
        facts |= {name: getattr(largest, name) for name in facts.keys() - {"warnings"} if hasattr(largest, name)}
        facts |= grid_fields(largest.shape, largest.spacing_mm, largest.geometry)
    return facts


@dataclass(frozen=True, slots=True)
class Chosen:
    """The series to convert.

    `include`: they must fit it; None: every series does.
    `exclude`: they must not fit it.
    `is_anonymous`: a reason against a series quotes none of its values.
    """

    include: Selector | None = None
    exclude: Selector | None = None
    is_anonymous: bool = False

    @property
    def told(self) -> frozenset[str]:
        """The fields that the selectors read and that are unknown before the conversion."""
        given = [one for one in (self.include, self.exclude) if one is not None]
        return frozenset().union(*(one.fields for one in given)) & fields_told() if given else frozenset()

    def reason_against(self, facts: Facts, converted: Converted | None = None) -> str | None:
        """Return why a series is not converted, or its volumes are not kept; None if they are.

        `facts`: those of `known_facts`.
        `converted`: the result; None before the conversion, when clauses decide that read nothing it tells.
        """
        include, exclude = self.include, self.exclude
        if converted is not None:
            facts = {**facts, **told_facts(converted)}
        elif self.told:
            from node.selector import clauses_about

            include = clauses_about(include, KNOWN) if include is not None else None
            exclude = exclude if exclude is not None and exclude.fields <= KNOWN else None
        if include is not None and not include.matches(facts):
            against = "does not fit --include"
            if self.is_anonymous:
                return against
            return f"{against}: {', '.join(instead for _, instead in include.why_not(facts))}"
        if exclude is not None and exclude.matches(facts):
            return "fits --exclude"
        return None


def chosen(include: str | None, exclude: str | None) -> Chosen:
    """Compile the two expressions.

    Raises UsageError: one is wrong, or has a field that only a node knows.
    """
    return Chosen(_compiled("--include", include), _compiled("--exclude", exclude))


def _compiled(option: str, expression: str | None) -> Selector | None:
    if expression is None:
        return None
    from node.selector import compile_selector

    try:
        selector = compile_selector(expression)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error
    require_told(option, selector)
    return selector


def require_told(place: str, selector: Selector) -> None:
    """Refuse a selector that compares what only a node knows; `place` is named in the message."""
    known = KNOWN | fields_told()
    if unknown := sorted(selector.fields - known):
        there = ", ".join(sorted(known))
        raise UsageError(f"{place}: {', '.join(unknown)} is known only to a node; known without one are {there}")


USED, EXCLUDED, DUPLICATE, REFUSED, WITHOUT_IMAGE = "used", "excluded", "duplicate", "refused", "without_image"
NOT_CHOSEN, SKIPPED = "not_chosen", "skipped"

FATES = USED, EXCLUDED, DUPLICATE, REFUSED, WITHOUT_IMAGE, NOT_CHOSEN, SKIPPED
"""What may become of a file. A duplicate has the content of a file that is used or excluded."""


class FilesOfSeries:
    """The files of a series that was converted, as the input calls them."""

    def __init__(self, series: FolderSeries, converted: Converted | Refusal) -> None:
        self._names = series.file_names
        self._converted = converted
        self._paths: dict[str, list[Path]] = defaultdict(list)
        for uid, path in series.instances:
            self._paths[uid].append(path)
        self._apart: set[Path] = set()
        if isinstance(converted, Converted):
            self._apart = {Path(one.file) for one in converted.exclusions if one.file is not None}

    def of(self, sop_instance_uids: Iterable[str]) -> dict[str, list[str]]:
        """Return the ``files`` of instances; of a conversion for nobody, nothing."""
        files = [self._names.get(path) for uid in sop_instance_uids for path in self._whole(uid)]
        return {"files": [name for name in files if name is not None]} if any(files) else {}

    def of_exclusion(self, exclusion: Exclusion) -> dict[str, Any]:
        """Return the ``files`` of an exclusion; of one of several files of an instance, the ``used_file``, or None."""
        uid = exclusion.sop_instance_uid
        if exclusion.file is None:
            return self.of([uid])
        name = self._names.get(Path(exclusion.file))
        used = self._whole(uid)[:1] if self._fates.get(uid) == USED else []
        return {**({} if name is None else {"files": [name]}), "used_file": next(map(self._names.get, used), None)}

    def rows(self) -> list[dict[str, Any]]:
        """Return each file with its name, its fate and the numbers of the stacks that it is in."""
        return [
            {"name": self._names[path], "fate": fate, "stacks": self._stacks.get(uid, []) if fate == USED else []}
            for uid, path, fate in self._each()
            if path in self._names
        ]

    def fates(self) -> Counter[str]:
        """Return how many files have each fate."""
        return Counter(fate for _, _, fate in self._each())

    def _each(self) -> Iterator[tuple[str, Path, str]]:
        for uid, paths in self._paths.items():
            fate = self._fates.get(uid, REFUSED)
            whole = self._whole(uid)
            further = DUPLICATE if fate in (USED, EXCLUDED) else fate
            for path in paths:
                yield uid, path, EXCLUDED if path in self._apart else fate if path == whole[0] else further

    def _whole(self, uid: str) -> list[Path]:
        """Return the files that are not excluded in favour of others of their instance; the first is used."""
        return [path for path in self._paths[uid] if path not in self._apart]

    @cached_property
    def _stacks(self) -> Mapping[str, list[int]]:
        stacks: dict[str, list[int]] = defaultdict(list)
        for stack, uid, _ in self._converted.sources if isinstance(self._converted, Converted) else ():
            stacks[uid].append(stack)
        return stacks

    @cached_property
    def _fates(self) -> Mapping[str, str]:
        """The fate of each instance. Where frames of one have several, it is used, or else refused."""
        if isinstance(self._converted, Refusal):
            return {}
        fates = {one.sop_instance_uid: EXCLUDED for one in self._converted.exclusions if one.file is None}
        for refusal in self._converted.refusals:
            fate = WITHOUT_IMAGE if refusal.reason is Reason.NOT_AN_IMAGE else REFUSED
            fates |= dict.fromkeys(refusal.sop_instance_uids, fate)
        return {**fates, **dict.fromkeys(self._stacks, USED)}
