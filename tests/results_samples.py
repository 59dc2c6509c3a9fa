"""Results of two invented series, from which the conformance statement says what results are like.

``made.tsv`` describes them; ``python -m tests.results_samples`` writes it anew.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from node.extensions.results import statement as record
from node.extensions.results.makers import VERBATIM, ResultIdentity, ResultMaking, ResultSource, SourceStack
from node.extensions.results.manifest import Coded, Label, ManifestEntry
from node.extensions.results.statement import RECORD, Made, MadeAttribute, MadeCode

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import DataElement

CONTENT = "ContentSequence"
"""The tree of a report, which its template describes."""


def described() -> list[Made]:
    """Make all samples; return what they are like."""
    with TemporaryDirectory() as folder:
        return [_described(title, *pair) for title, pair in _pairs(Path(folder)).items()]


@dataclass(frozen=True, slots=True)
class _Sample:
    """A made instance, the instances of its series, and the words that a hook could have given it."""

    ds: Dataset
    sources: tuple[Dataset, ...]
    words: frozenset[str]


def _pairs(folder: Path) -> dict[str, tuple[_Sample, _Sample]]:
    """Return each kind twice: of a series that has what a result copies, and of one that has as little as it may."""
    full, bare = (dict(_made(folder, name)) for name in ("full", "bare"))
    return {title: (sample, bare[title]) for title, sample in full.items()}


def _made(folder: Path, name: str) -> Iterator[tuple[str, _Sample]]:
    from pydicom import dcmread

    from node.extensions.results.report import make_document, make_report
    from node.extensions.results.segmentation import make_segmentation

    is_full = name == "full"
    rows, columns = (4, 6) if is_full else (6, 4)
    source = _source(folder / f"{name}-source", rows, columns, is_full=is_full)
    label = Label(name=f"Label {name}")
    made_at = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    mask, report, texts, pdf = (folder / f"{name}{end}" for end in (".nii.gz", ".json", "-texts.json", ".pdf"))
    _write_mask(mask, (columns, rows, 3), slices=1 if is_full else 2)
    site = Coded(value="39607008", scheme="SCT", meaning="Lung structure") if is_full else None
    unit, of = "mL" if is_full else "mm", site.model_dump() if site else None
    measured = {"name": f"Volume {name}", "value": 1.5, "unit": unit, "site": of}
    report.write_text(json.dumps({"measurements": [measured]}), encoding="utf-8")
    texts.write_text(json.dumps({f"Finding {name}": f"nothing ({name})"}), encoding="utf-8")
    pdf.write_bytes(b"%PDF-1.4\n" + name.encode() * (1 if is_full else 2) + b"\n%%EOF\n")
    entry = ManifestEntry("", "segmentation", f"name-{name}", f"Description {name}", f"Algorithm {name}", f"1.{rows}")
    words = frozenset(
        (entry.name, f"{entry.name} 1", entry.description, entry.algorithm, entry.algorithm_version, label.name)
    )
    headers = tuple(dcmread(path) for _, path in source.stacks[0].files)
    binary = replace(entry, labels={1: label})
    for number, (title, make, file, asked) in enumerate(
        (
            ("Segmentation", make_segmentation, mask, binary),
            ("Label Map Segmentation", make_segmentation, mask, replace(binary, encoding="labelmap")),
            ("Comprehensive SR: measurements", make_report, report, entry),
            ("Comprehensive SR: texts", make_report, texts, entry),
            ("Encapsulated PDF", make_document, pdf, entry),
        ),
        1 if is_full else 6,
    ):
        into = folder / f"{name}-{number}.dcm"
        identity = ResultIdentity(f"2.25.{number}1", f"2.25.{number}2", 9000 + number)
        make(ResultMaking(asked, file, source, identity, into, made_at))
        yield title, _Sample(dcmread(into), headers, words)


def _source(folder: Path, rows: int, columns: int, *, is_full: bool) -> ResultSource:
    """Write a series of three images, and return it."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

    folder.mkdir()
    root = f"2.25.{rows}"
    instances = []
    for number in range(3):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.SOPClassUID = CTImageStorage if is_full else MRImageStorage
        ds.SOPInstanceUID = f"{root}.3.{number}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = f"{root}.1", f"{root}.2", f"{root}.4"
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT" if is_full else "MR", rows, number + 1
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.Manufacturer = f"Maker {rows}"
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [rows, columns, columns * number], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [1 / rows, 1 / rows], rows
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = bytes(2 * rows * columns)
        if is_full:
            _fill(ds)
        path = folder / f"{number}.dcm"
        ds.save_as(path, enforce_file_format=True)
        instances.append((str(ds.SOPClassUID), str(ds.SOPInstanceUID), path))
    stack = SourceStack(0, tuple((uid, path) for _, uid, path in instances))
    return ResultSource(f"{root}.1", f"{root}.2", tuple(one[:2] for one in instances), instances[0][2], (stack,))


_VALUES: Mapping[str, Any] = {
    "AS": "040Y", "CS": "M", "DA": "19700101", "DS": "1.5", "LO": "Copied", "PN": "Copied^Name", "SH": "Copied",
    "TM": "010203", "LT": "Copied", "UT": "Copied", "US": 4,
}  # fmt: skip
"""Values by VR; in sequences, a single text."""

_CODE = ("110180", "Copied")
"""Code value of DCM and meaning."""

_OF_KEYWORD = {
    "PatientIdentityRemoved": "YES", "PatientSexNeutered": "ALTERED", "SmokingStatus": "UNKNOWN",
    "TimezoneOffsetFromUTC": "+0000",
}  # fmt: skip


def _fill(ds: Dataset) -> None:
    """Give a data set every attribute that results copy."""
    from pydicom import Dataset
    from pydicom.datadict import dictionary_VR
    from pydicom.sequence import Sequence

    from node.extensions.deidentify.instance import code_item
    from node.extensions.deidentify.profile import BASIC_PROFILE

    other = Dataset()
    other.PatientID, other.TypeOfPatientID = "Copied", "TEXT"
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "Copied"
    person = Dataset()
    person.PersonIdentificationCodeSequence, person.InstitutionName = [code_item(*_CODE)], "Copied"
    items = {
        "OtherPatientIDsSequence": other,
        "DeidentificationMethodCodeSequence": code_item(*BASIC_PROFILE),
        **{keyword: issuer for keyword in VERBATIM if keyword.startswith("IssuerOf") and keyword.endswith("Sequence")},
        **{keyword: person for keyword in VERBATIM if keyword.endswith("IdentificationSequence")},
    }
    coded = {keyword for keyword in VERBATIM if keyword.endswith("CodeSequence")}
    items |= {keyword: code_item(*_CODE) for keyword in coded - set(items)}
    for keyword in set(VERBATIM) - {"StudyInstanceUID"}:
        if keyword in items:
            setattr(ds, keyword, Sequence([items[keyword]]))
        else:
            setattr(ds, keyword, _OF_KEYWORD.get(keyword, _VALUES[dictionary_VR(keyword)]))


def _write_mask(path: Path, shape: tuple[int, int, int], *, slices: int) -> None:
    """Write a mask of some slices on the grid of the images of `_source`."""
    import nibabel
    import numpy as np

    columns, rows, _ = shape
    voxels = np.zeros(shape, np.uint8)
    voxels[1:3, 1:3, :slices] = 1
    affine = np.diag([-1 / rows, -1 / rows, float(columns), 1.0])
    affine[:2, 3] = -rows, -columns
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


def _described(title: str, full: _Sample, bare: _Sample) -> Made:
    attributes = tuple(_attributes(full.ds, bare.ds, full, ""))
    codes = sorted(set(_codes(full.ds)) & set(_codes(bare.ds)), key=lambda code: (code.scheme, code.value, code.place))
    return Made(title, str(full.ds.SOPClassUID), attributes, tuple(codes))


def _attributes(full: Dataset, bare: Dataset | None, sample: _Sample, within: str) -> Iterator[MadeAttribute]:
    """Yield the attributes of a data set and of the first items of its sequences, but those of codes."""
    from pydicom.datadict import dictionary_description

    for element in full:
        if element.tag.group == 0x0002:
            continue
        other = bare[element.tag] if bare is not None and element.tag in bare else None
        value = _fixed(element, other)
        one = MadeAttribute(
            f"{within} {dictionary_description(element.tag)}".strip(),
            str(element.tag),
            str(element.VR),
            value,
            _presence(element, other),
            _source_of(element, value, sample, is_top=not within),
        )
        yield one
        if element.VR == "SQ" and element.value and element.keyword != CONTENT and "CodeValue" not in element.value[0]:
            items = other.value if other is not None and other.value else [None]
            for inner in _attributes(element.value[0], items[0], sample, f"{within}>"):
                yield replace(inner, source=one.source) if one.source == "SRC_INSTANCE" else inner


def _presence(full: DataElement, bare: DataElement | None) -> str:
    if full.is_empty:
        return "EMPTY"
    if bare is None:
        return "ANAP"
    return "VNAP" if bare.is_empty else "ALWAYS"


_SHORT_CHARACTERS = 64
_VARYING = frozenset(("DA", "DS", "DT", "OB", "OW", "TM", "UL"))
"""VRs of values that are the same in both samples by chance at most."""


def _fixed(full: DataElement, bare: DataElement | None) -> str:
    """Return the value, or the code, that an attribute has in both samples; empty: it differs, or is none of both."""
    if bare is None or full.VR in _VARYING or full.is_empty or full.value != bare.value:
        return ""
    if full.keyword == "SoftwareVersions":  # of libraries
        return ""
    if full.VR == "SQ":
        return ", ".join(_code_text(item) for item in full.value if "CodeValue" in item)
    text = "\\".join(map(str, full.value)) if full.VM > 1 else str(full.value)
    return text if len(text) <= _SHORT_CHARACTERS else ""


def _code_text(item: Dataset) -> str:
    return f'({item.CodeValue}, {item.CodingSchemeDesignator}, "{item.CodeMeaning}")'


def _source_of(element: DataElement, fixed: str, sample: _Sample, *, is_top: bool) -> str:
    if is_top and element.keyword in VERBATIM:
        return "SRC_INSTANCE"
    if fixed or element.is_empty or element.VR in ("OB", "SQ"):
        return "AUTO"
    values = {str(one) for one in (element.value if element.VM > 1 else [element.value])}
    if values & sample.words:
        return "HOOK"
    held = {str(one.value) for ds in sample.sources for one in ds if one.VR == "UI" or one.keyword == element.keyword}
    return "SRC_INSTANCE" if values <= held else "AUTO"


def _codes(ds: Dataset) -> Iterator[MadeCode]:
    """Yield the codes of a data set; those of a report by the concept that they are the value of."""
    for element in ds:
        if element.VR != "SQ" or element.keyword == "DeidentificationMethodCodeSequence":
            continue
        for item in element.value:
            if "CodeValue" in item:
                place = str(element.name)
                if element.keyword == "ConceptCodeSequence" and "ConceptNameCodeSequence" in ds:
                    place = str(ds.ConceptNameCodeSequence[0].CodeMeaning)
                yield MadeCode(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning), place)
            yield from _codes(item)


def as_text(made: Iterable[Made]) -> str:
    """Return the content of ``made.tsv``."""
    rows: list[tuple[str, ...]] = []
    for one in made:
        rows.append(("instance", one.title, one.sop_class_uid))
        rows += [("attribute", *astuple(attribute)) for attribute in one.attributes]
        rows += [("code", *astuple(code)) for code in one.codes]
    return "".join("\t".join(row) + "\n" for row in rows)


if __name__ == "__main__":
    Path(record.__file__).with_name(RECORD).write_text(as_text(described()), encoding="utf-8")
