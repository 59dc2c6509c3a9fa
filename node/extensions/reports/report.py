"""Measurements of structured reports, and selections of key objects, as plain records for a JSON file.

Texts that people type are left out, as in sidecars, except tracking identifiers and descriptions of key objects that
repeat no word of the patient's names or identifiers. Names, dates and times are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset

from node.api import (
    DAMAGE,
    ConversionRefused,
    Exclusion,
    FileSource,
    Geometry,
    Objects,
    Output,
    Reason,
    VolumeKind,
    WrittenObjects,
    converted_file,
    damage_detail,
    identifying_words,
    is_identifier,
    items,
    number,
    numbers,
    repeats,
    text,
    value,
    write_document,
)

REPORTS = "1.2.840.10008.5.1.4.1.1.88."
"""Root of the SOP classes of structured reports (PS3.4 B.5)."""

KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"

VERSION = 1
"""Of the format of the JSON files; a change that programs must know of increments it."""

MAX_ITEMS = 200_000
"""Content items of one report."""

MAX_RECORDS = 500_000
"""Codes and references in the JSON file of one report."""

MAX_DEPTH = 64
"""Levels of a content tree."""

MAX_COORDINATES = 1_000_000
"""Numbers in all graphic data of one report."""

MAX_TEXT = 1024
"""Characters of a text."""

TRACKING_IDENTIFIER, TRACKING_UID = ("112039", "DCM"), ("112040", "DCM")
DESCRIPTION = ("113012", "DCM")
FINDINGS = {("121071", "DCM")}
FINDING_SITES = {("363698007", "SCT"), ("G-C0E3", "SRT"), ("G-C0E3", "SNM3")}

REFERENCES = frozenset(("IMAGE", "COMPOSITE", "WAVEFORM"))
REGIONS = frozenset(("SCOORD", "SCOORD3D"))
ACQUISITION_CONTEXT = "HAS ACQ CONTEXT"
"""Relationship of numbers that describe an image, such as those of an image library (TID 1600)."""

Code = dict[str, str]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Document:
    """The record of one instance: `kind` is ``measurements`` or ``key-objects``."""

    sop_instance_uid: str
    kind: VolumeKind
    record: Record


def read_document(ds: Dataset) -> Document | None:
    """Return the measurements of a structured report, or the selection of a key object document.

    None if the instance is of another class, or has neither measurements nor references.

    Raises ConversionRefused: ``too-large``: more content than a report may have.

    PS3.3 C.17.3, C.17.6; PS3.16 TID 300, 1500 and 2010.
    """
    sop_class = text(ds, "SOPClassUID")
    if not sop_class.startswith(REPORTS):
        return None
    tree = _Tree(ds)
    is_selection = sop_class == KEY_OBJECTS
    kind, found = (
        (VolumeKind.KEY_OBJECTS, tree.selection()) if is_selection else (VolumeKind.MEASUREMENTS, tree.measurements())
    )
    if not found:
        return None
    record = {
        "format": kind.value,
        "version": VERSION,
        "StudyInstanceUID": text(ds, "StudyInstanceUID"),
        "SeriesInstanceUID": text(ds, "SeriesInstanceUID"),
        "SOPInstanceUID": text(ds, "SOPInstanceUID"),
        "SOPClassUID": sop_class,
        "title": tree.code(ds, "ConceptNameCodeSequence"),
        "template": _template(ds),
        "completion": text(ds, "CompletionFlag"),
        "verification": text(ds, "VerificationFlag"),
        "series": tree.series(),
        **found,
    }
    return Document(record["SOPInstanceUID"], kind, _without_empty(record))


def _template(ds: Dataset) -> str:
    stated = items(ds, "ContentTemplateSequence")
    return text(stated[0], "TemplateIdentifier")[:16] if stated else ""


def _without_empty(record: Record) -> Record:
    return {name: content for name, content in record.items() if content not in (None, "", [], {})}


@dataclass(slots=True)
class _Node:
    """A content item, with its parent and its children by value."""

    item: Dataset
    parent: _Node | None
    relationship: str
    value_type: str
    children: list[_Node] = field(default_factory=list)

    def ancestors(self) -> Iterator[_Node]:
        """Yield the parent, its parent, and so on."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def descendants(self) -> Iterator[_Node]:
        """Yield what belongs to an item: the items below it, without those of other measurements and containers.

        What is below a region belongs to the region.
        """
        waiting = self.children[::-1]
        while waiting:
            node = waiting.pop()
            if node.value_type not in ("NUM", "CONTAINER"):
                yield node
                waiting += [] if node.value_type in REGIONS else node.children[::-1]


class _Tree:
    """The content tree of a document."""

    def __init__(self, ds: Dataset) -> None:
        self._ds = ds
        self._words = identifying_words(ds)
        self._series = _evidence(ds)
        self._records = self._coordinates = 0
        self._nodes = self._read()

    def _read(self) -> list[_Node]:
        """Return all content items, in order; the first is the root."""
        root = _Node(self._ds, None, "", "CONTAINER")
        nodes, waiting = [], [(root, 0)]
        while waiting:
            node, depth = waiting.pop()
            nodes.append(node)
            contained = items(node.item, "ContentSequence")
            if len(nodes) + len(waiting) + len(contained) > MAX_ITEMS or (contained and depth == MAX_DEPTH):
                detail = f"the report has more than {MAX_ITEMS} content items, or more than {MAX_DEPTH} levels"
                raise ConversionRefused(Reason.TOO_LARGE, detail)
            node.children = [
                _Node(item, node, text(item, "RelationshipType").upper(), text(item, "ValueType").upper())
                for item in contained
            ]
            waiting += [(child, depth + 1) for child in reversed(node.children)]
        return nodes

    def measurements(self) -> Record:
        """Return the measurements by the container that they are in; empty if there are none."""
        groups: dict[int, tuple[_Node, list[Record]]] = {}
        for node in self._nodes:
            if node.value_type == "NUM" and node.relationship != ACQUISITION_CONTEXT:
                container = next(each for each in node.ancestors() if each.value_type == "CONTAINER")
                groups.setdefault(id(container), (container, []))[1].append(self._measurement(node))
        return {"groups": [self._group(*group) for group in groups.values()]} if groups else {}

    def _group(self, container: _Node, measurements: list[Record]) -> Record:
        path = [container, *container.ancestors()][::-1]
        self._count_records(len(path))
        return _without_empty(
            {
                "path": [self.code(node.item, "ConceptNameCodeSequence") for node in path],
                "context": [qualifier for node in path[:-1] for qualifier in self._qualifiers(node, of_context=True)],
                "tracking_identifier": self._typed(container, TRACKING_IDENTIFIER),
                "tracking_uid": next(
                    (text(each.item, "UID") for each in container.children if _concept(each.item) == TRACKING_UID), ""
                ),
                "finding": self._values(container, FINDINGS),
                "finding_site": self._values(container, FINDING_SITES),
                **self._about(container),
                "measurements": measurements,
            }
        )

    def _measurement(self, node: _Node) -> Record:
        measured = next(iter(items(node.item, "MeasuredValueSequence")), Dataset())
        exact = number(measured, "FloatingPointValue")
        parent = node.parent
        return {
            "concept": self.code(node.item, "ConceptNameCodeSequence"),
            "value": number(measured, "NumericValue") if exact is None else exact,
            "unit": self.code(measured, "MeasurementUnitsCodeSequence"),
        } | _without_empty(
            {
                "qualifier": self.code(node.item, "NumericValueQualifierCodeSequence"),
                "of": None if parent is None or parent.value_type == "CONTAINER" else self._named(parent),
                **self._about(node),
            }
        )

    def _about(self, node: _Node) -> Record:
        """Return what qualifies an item, and the images and regions that it refers to."""
        nodes = list(node.descendants())
        nodes += [target for each in nodes if (target := self._target(each)) is not None]
        return {
            "qualifiers": self._qualifiers(node),
            "images": [image for each in nodes for image in self._images(each)],
            "regions": [self._region(each) for each in nodes if each.value_type in REGIONS],
        }

    def _target(self, node: _Node) -> _Node | None:
        """Return the item that a reference by identifier means (PS3.3 C.17.3.2.5); None for other items.

        References in that item are not followed: they may be circular.
        """
        path = numbers(node.item, "ReferencedContentItemIdentifier")
        if not path:
            return None
        target = self._nodes[0]
        for position in path[1:]:
            if not 1 <= position <= len(target.children):
                return None
            target = target.children[int(position) - 1]
        return target

    def _qualifiers(self, node: _Node, *, of_context: bool = False) -> list[Record]:
        """Return the codes and UIDs in an item; `of_context`: only those that hold for all items below it."""
        return [
            named
            for child in node.children
            if child.value_type in ("CODE", "UIDREF")
            and not (of_context and child.relationship not in ("HAS CONCEPT MOD", "HAS OBS CONTEXT"))
            and _concept(child.item) not in {TRACKING_UID, *FINDINGS, *FINDING_SITES}
            and (named := self._named(child))
        ]

    def _named(self, node: _Node) -> Record:
        """Return concept and value of an item that has a code or a UID."""
        self._count_records()
        content: Any = self.code(node.item, "ConceptCodeSequence") or _uid(node.item, "UID")
        modifiers = self._qualifiers(node) if node.value_type == "CODE" else []
        named = {"concept": self.code(node.item, "ConceptNameCodeSequence"), "value": content, "modifiers": modifiers}
        return _without_empty(named)

    def _values(self, container: _Node, concepts: set[tuple[str, str]]) -> list[Record]:
        """Return the coded values of a concept, with their modifiers, such as the laterality of a site."""
        found = [child for child in container.children if _concept(child.item) in concepts]
        named = [
            {**self.code(child.item, "ConceptCodeSequence"), "modifiers": self._qualifiers(child)} for child in found
        ]
        return [_without_empty(each) for each in named]

    def _typed(self, container: _Node, concept: tuple[str, str]) -> str:
        """Return a text that somebody typed, unless it repeats a word of the patient's names or identifiers."""
        for child in container.children:
            if _concept(child.item) == concept:
                typed = _whole_text(child.item)
                return "" if repeats(typed, self._words) else typed
        return ""

    def _images(self, node: _Node) -> Iterator[Record]:
        """Yield the instances to which an item refers, also below a region."""
        if node.value_type not in REFERENCES:
            return
        for reference in items(node.item, "ReferencedSOPSequence"):
            self._count_records()
            uid = _uid(reference, "ReferencedSOPInstanceUID")
            study, series = self._series.get(uid, ("", ""))
            yield _without_empty(
                {
                    "purpose": self.code(node.item, "ConceptNameCodeSequence"),
                    "study_instance_uid": study,
                    "series_instance_uid": series,
                    "sop_class_uid": _uid(reference, "ReferencedSOPClassUID"),
                    "sop_instance_uid": uid,
                    "frames": _whole_numbers(reference, "ReferencedFrameNumber"),
                    "segments": _whole_numbers(reference, "ReferencedSegmentNumber"),
                }
            )

    def _count_records(self, count: int = 1) -> None:
        self._records += count
        if self._records > MAX_RECORDS:  # context and path are repeated in each group
            raise ConversionRefused(Reason.TOO_LARGE, f"the report needs more than {MAX_RECORDS} records")

    def _region(self, node: _Node) -> Record:
        in_space = node.value_type == "SCOORD3D"
        coordinates = numbers(node.item, "GraphicData") or ()
        self._coordinates += len(coordinates)
        if self._coordinates > MAX_COORDINATES:
            detail = f"the regions of the report have more than {MAX_COORDINATES} coordinates"
            raise ConversionRefused(Reason.TOO_LARGE, detail)
        step = 3 if in_space else 2
        points = [list(coordinates[start : start + step]) for start in range(0, len(coordinates), step)]
        return _without_empty(
            {
                "concept": self.code(node.item, "ConceptNameCodeSequence"),
                "type": text(node.item, "GraphicType")[:16],
                "points_lps_mm" if in_space else "points_pixels": points,
                "frame_of_reference_uid": _uid(node.item, "ReferencedFrameOfReferenceUID"),
                "images": [image for child in node.children for image in self._images(child)],
            }
        )

    def selection(self) -> Record:
        """Return what a key object document selects, and why; empty if it selects nothing."""
        root, *others = self._nodes
        references = [image for node in others for image in self._images(node)]
        if not references:
            return {}
        return {
            "modifiers": self._qualifiers(root),
            "description": self._typed(root, DESCRIPTION),
            "references": references,
        }

    def series(self) -> list[Record]:
        """Return the series that the document lists as its evidence."""
        return [
            {"study_instance_uid": study, "series_instance_uid": series, "instances": count}
            for (study, series), count in Counter(self._series.values()).items()
        ]

    def code(self, item: Dataset, keyword: str) -> Code:
        """Return the first code of a sequence: value, scheme and meaning; empty if there is none."""
        for coded in items(item, keyword)[:1]:
            meaning = text(coded, "CodeMeaning")[:64]
            stated, scheme = _code_value(coded)
            found = {"value": stated, "scheme": scheme, "meaning": "" if repeats(meaning, self._words) else meaning}
            return _without_empty(found)
        return {}


def _evidence(ds: Dataset) -> dict[str, tuple[str, str]]:
    """Return study and series of each instance that a document lists as its evidence."""
    found = {}
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in items(ds, keyword):
            for series in items(study, "ReferencedSeriesSequence"):
                key = _uid(study, "StudyInstanceUID"), _uid(series, "SeriesInstanceUID")
                for reference in items(series, "ReferencedSOPSequence"):
                    found[_uid(reference, "ReferencedSOPInstanceUID")] = key
    return found


def _uid(ds: Dataset, keyword: str) -> str:
    """Return a UID; empty if it is none: a part of a longer one could be that of another object."""
    uid = text(ds, keyword)
    return uid if is_identifier(uid) else ""


def _code_value(coded: Dataset) -> tuple[str, str]:
    """Return value and scheme of a code; a long code or a URN if it has no Code Value (PS3.3 8.1)."""
    stated = (text(coded, keyword) for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue"))
    return next(filter(None, stated), "")[:MAX_TEXT], text(coded, "CodingSchemeDesignator")[:16]


def _concept(item: Dataset) -> tuple[str, str] | None:
    """Return value and scheme of the concept of an item."""
    named = items(item, "ConceptNameCodeSequence")
    return _code_value(named[0]) if named else None


def _whole_text(item: Dataset) -> str:
    """Return a text; a backslash in it separates nothing (VR UT)."""
    stated = value(item, "TextValue")
    return stated.strip(" \0")[:MAX_TEXT] if isinstance(stated, str) else ""


def _whole_numbers(reference: Dataset, keyword: str) -> Sequence[int]:
    return [int(each) for each in numbers(reference, keyword) or () if each == int(each)]


STEMS = {"measurements": "measurements", "key-objects": "key_objects"}
"""Names of files by their kind."""


class ReportsOfSeries(Objects):
    """The reports of a series that say something of images (`node.conversion.datasets.Objects`).

    No report is taken: the conversion goes on to say of each that it is no image.
    """

    def __init__(self) -> None:
        super().__init__()
        self._documents: dict[str, Document] = {}

    def take(self, ds: Dataset) -> bool:
        """Keep what the file of a report needs; return False."""
        try:
            document = read_document(ds)
            if document is not None:
                self._documents.setdefault(document.sop_instance_uid, document)
        except ConversionRefused as refused:
            self._exclude(ds, Reason(refused.reason), refused.detail)
        except DAMAGE as error:
            self._exclude(ds, Reason.UNREADABLE, damage_detail(error))
        return False

    def _exclude(self, ds: Dataset, reason: Reason, detail: str) -> None:
        self.exclusions.append(Exclusion(text(ds, "SOPInstanceUID"), 0, reason, detail))

    def write(self, output: Output) -> WrittenObjects:
        """Write a file for each report; see `Objects`."""
        files, sources = [], []
        for stack, uid in enumerate(sorted(self._documents), start=output.stack):
            document = self._documents[uid]
            suffix = f"s{stack + 1}" if len(self._documents) > 1 else ""
            stem = "_".join(filter(None, (output.name, STEMS[document.kind.value], suffix)))
            written = write_document(document.record, document.kind, output.folder, stem)
            files.append(
                converted_file(written, output.folder, stack=stack, suffix=suffix, geometry=Geometry.NONE, instances=1)
            )
            sources.append(FileSource(stack, uid, 1))
        return WrittenObjects(files, sources)
