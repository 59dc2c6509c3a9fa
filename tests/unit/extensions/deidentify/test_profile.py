"""Each row of PS3.15 Table E.1-1, by each option: what it asks for is what becomes of the attribute."""

import runpy
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from node.children.pseudonyms import Patient
from node.errors import UsageError
from node.extensions.deidentify.attributes import Cleaner
from node.extensions.deidentify.deidentification import ALLOWABLE
from node.extensions.deidentify.profile import (
    CLEAN,
    RETAIN,
    Option,
    Profile,
    ProfileRow,
    edition,
    options,
    rows,
    safe_private,
)
from node.extensions.deidentify.settings import AllowedRisk, Cleaned, Retained
from tests.unit.extensions.deidentify.orders import KEY

PATIENT = Patient("", "P1")
GENERATOR = Path(__file__).resolve().parents[4] / ".ci/confidentiality_profile.py"

PLAIN_ROWS = [row for row in rows() if "x" not in row.tag and "g" not in row.tag]
CHOICES = [(), *((option,) for option in Option), tuple(option for option in Option if option is not Option.FULL_DATES)]

VALUES: dict[str, Any] = {
    "AE": "SECRET", "AS": "042Y", "CS": "SECRET", "DA": "20240102", "DS": "4242", "DT": "20240102101500",
    "FD": 4242.0, "FL": 4242.0, "IS": "4242", "OB": b"SECRET", "OW": b"SECRET", "PN": "Secret^Person", "SH": "Secret",
    "SL": 4242, "TM": "101501", "UI": "1.2.3.4", "UL": 4242, "UN": b"SECRET", "UR": "http://secret", "US": 4242,
}  # fmt: skip


def tag_of(row: ProfileRow) -> BaseTag:
    return BaseTag(int(row.tag.replace(",", ""), 16))


def vr_of(row: ProfileRow) -> str:
    try:
        return str(dictionary_VR(tag_of(row))).split(" or ")[-1]
    except KeyError:  # newer than the dictionary
        ends = {"Sequence": "SQ", "DateTime": "DT"}
        return next((vr for end, vr in ends.items() if row.name.endswith(end)), "LO")


def element_of(row: ProfileRow) -> DataElement:
    vr = vr_of(row)
    if vr == "SQ":
        item = Dataset()
        item.PatientName, item.CodeMeaning, item.ReferencedSOPInstanceUID = "Secret^Person", "Secret", "1.2.3.4"
        return DataElement(tag_of(row), "SQ", Sequence([item]))
    value = "+0100" if row.tag == "0008,0201" else VALUES.get(vr, "Secret")
    return DataElement(tag_of(row), vr, value, validation_mode=config.IGNORE)


@pytest.fixture(scope="module")
def every_attribute() -> Dataset:
    ds = Dataset()
    for row in PLAIN_ROWS:
        ds.add(element_of(row))
    return ds


def codes_of(row: ProfileRow, chosen: tuple[Option, ...]) -> list[str]:
    """Return the codes of the table of which one must be done; of two options, cleaning satisfies both."""
    of_options = {str(row.options[option]) for option in chosen if option in row.options}
    return ["C"] if "C" in of_options else sorted(of_options) or row.basic.replace("U*", "U").split("/")


def is_done(code: str, row: ProfileRow, before: DataElement, after: DataElement | None) -> bool:
    if after is None:
        return code == "X" or (code == "C" and before.VR in ("OB", "UN"))
    said = after.to_json().lower()
    gone = "secret" not in said and "person" not in said and "1.2.3.4" not in said
    if code == "Z":
        return gone and (after.is_empty or row.tag in ("0008,0050", "0010,0020"))
    if code == "D":
        return gone and not after.is_empty and after.value != before.value
    if code == "U":
        return "1.2.3.4" not in said and (
            "person" not in said if before.VR == "SQ" else after.value.startswith("2.25.")
        )
    if code == "K":
        return bool(after.value == before.value) or (
            before.VR == "SQ" and len(after.value) == 1 and "person" not in said
        )
    if code == "C" and before.VR in ("DA", "DT"):
        return len(after.value) == len(before.value) and after.value[:8] < before.value[:8]
    stays = before.VR == "TM" or row.tag == "0008,0201" or (before.VR == "SQ" and "person" not in said)
    return code == "C" and (gone or stays)


@pytest.mark.parametrize("chosen", CHOICES, ids=lambda chosen: "+".join(chosen) or "basic")
def test_every_row_is_treated_as_the_table_asks(every_attribute: Dataset, chosen: tuple[Option, ...]) -> None:
    cleaned = Cleaner(Profile(frozenset(chosen)), KEY, PATIENT).data_set(every_attribute)
    wrong = []
    for row in PLAIN_ROWS:
        codes, tag = codes_of(row, chosen), tag_of(row)
        if not any(is_done(code, row, every_attribute[tag], cleaned.get(tag)) for code in codes):
            wrong.append((row.tag, row.name, codes, cleaned.get(tag)))
    assert wrong == []


def test_sequences_are_left_as_their_modules_need_them() -> None:
    item, channels = Dataset(), Dataset()
    item.ReferencedSOPInstanceUID, channels.ReferencedWaveformChannels = "1.2.3.4", [1, 2, 3, 4]
    request, ds = Dataset(), Dataset()
    request.ReferencedStudySequence, ds.ReferencedStudySequence = [item], [item]
    ds.ReferencedRequestSequence, ds.WaveformAnnotationSequence = [request], [channels]
    cleaned = Cleaner(Profile(), KEY, PATIENT).data_set(ds)
    assert "ReferencedStudySequence" not in cleaned  # Type 3, not without an item
    assert list(cleaned.ReferencedRequestSequence[0].ReferencedStudySequence) == []  # Type 2
    assert cleaned.WaveformAnnotationSequence[0].ReferencedWaveformChannels == [0, 0, 0, 0]


def test_the_table_is_whole() -> None:
    assert edition() == "2026d"
    counted = Counter(row.basic for row in rows())
    assert counted == {
        "X": 417, "D": 93, "U": 55, "Z": 42, "X/D": 23, "X/Z": 11, "X/Z/D": 8, "Z/D": 6, "X/Z/U*": 2,
    }  # fmt: skip
    assert Counter(option for row in rows() for option in row.options) == {
        Option.SAFE_PRIVATE: 1, Option.UIDS: 60, Option.DEVICE: 59, Option.INSTITUTION: 10, Option.PATIENT: 19,
        Option.FULL_DATES: 169, Option.MODIFIED_DATES: 169, Option.DESCRIPTORS: 140, Option.STRUCTURED: 4,
        Option.GRAPHICS: 4,
    }  # fmt: skip
    assert safe_private()["SIEMENS MR HEADER", 0x0019, 0x0C] == "IS"


def test_another_project_has_read_the_same_table() -> None:
    """dicom-anonymizer has the Basic Profile of edition 2026c, made from the same text by other code."""
    other = import_module("dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c")
    theirs = {
        (group << 16 | element): "/".join(("X", "Z", "U*") if kind == "X_Z_U_STAR" else kind.split("_"))
        for kind in ("X", "Z", "D", "U", "X_Z", "X_D", "Z_D", "X_Z_D", "X_Z_U_STAR")
        for group, element, *mask in getattr(other, f"{kind}_TAGS")
        if not mask  # curves and overlays
    }
    ours = {int(tag_of(row)): row.basic for row in PLAIN_ROWS}
    assert ours.pop(0x3004007F) == "X", "Dose Calculation Model Name, new in 2026d"
    assert theirs == ours


def test_options_that_contradict_or_do_not_exist_are_refused() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        Profile(frozenset((Option.FULL_DATES, Option.MODIFIED_DATES)))
    with pytest.raises(UsageError, match='--retain pateint: no such option, did you mean "patient"'):
        options(["pateint"], [])
    with pytest.raises(UsageError, match="--clean uids: no such option"):
        options([], ["uids"])
    assert options(["patient"], ["pixels"]) == {Option.PATIENT, Option.PIXELS}


def test_the_configuration_knows_every_option_and_every_risk() -> None:
    assert get_args(Retained) == RETAIN
    assert get_args(Cleaned) == CLEAN
    assert get_args(AllowedRisk) == ALLOWABLE


PART_15 = """<book xmlns="http://docbook.org/ns/docbook" xmlns:xml="http://www.w3.org/XML/1998/namespace">
<subtitle>DICOM PS3.15 2031a - Security and System Management Profiles</subtitle>
<table xml:id="table_E.1-1"><thead><tr>{headings}</tr></thead><tbody>
<tr><td><para>Acqui\u200bsition Date</para></td><td>(0008,0022)</td><td>N</td><td>Y</td><td>X/Z</td>
<td/><td/><td/><td/><td/><td>K</td><td>C</td><td/><td/><td/></tr>
<tr><td>Curve Data</td><td>(50XX,XXXX)</td><td>Y</td><td>N</td><td>X</td><td/><td/><td/><td/><td/><td/><td/><td/><td/>
<td>C</td></tr>
<tr><td>Private Attributes</td><td>(gggg,eeee) where gggg is odd</td><td>N</td><td>N</td><td>X</td><td>C</td><td/><td/>
<td/><td/><td/><td/><td/><td/><td/></tr></tbody></table>
<table xml:id="table_E.3.10-1"><thead><tr><th>Data Element</th><th>Private Creator</th><th>VR</th><th>VM</th>
<th>Meaning</th></tr></thead><tbody>
<tr><td>(7053,xx00)</td><td>Philips PET Private Group</td><td>DS</td><td>1</td><td>SUV Factor</td></tr>
<tr><td>(0025,xx01)</td><td>Philips ST80i</td><td>OW</td><td>1</td><td>file data</td></tr></tbody></table></book>"""

HEADINGS = (
    "Attribute Name", "Tag", "Retd. (from PS3.6)", "In Std. Comp. IOD (from PS3.3)", "Basic Prof.",
    "Rtn. Safe Priv. Opt.", "Rtn. UIDs Opt.", "Rtn. Dev. Id. Opt.", "Rtn. Inst. Id. Opt.", "Rtn. Pat. Chars. Opt.",
    "Rtn. Long. Full Dates Opt.", "Rtn. Long. Modif. Dates Opt.", "Clean Desc. Opt.", "Clean Struct. Cont. Opt.",
    "Clean Graph. Opt.",
)  # fmt: skip


def test_the_tables_are_made_from_the_text_of_the_standard(tmp_path: Path) -> None:
    generate = runpy.run_path(str(GENERATOR))["main"]
    source = tmp_path / "part15.xml"
    source.write_text(PART_15.format(headings="".join(f"<th>{each}</th>" for each in HEADINGS)), encoding="utf-8")
    generate(str(source), tmp_path)
    profile = (tmp_path / "profile.csv").read_text("utf-8").splitlines()
    assert profile[0].startswith("# PS3.15 2031a, Table E.1-1.")
    assert profile[2:] == [
        '"(0008,0022)",Acquisition Date,X/Z,,,,,,K,C,,,',
        '"(50xx,xxxx)",Curve Data,X,,,,,,,,,,C',
        '"(gggg,eeee)",Private Attributes,X,C,,,,,,,,,',
    ]
    assert (tmp_path / "safe_private.csv").read_text("utf-8").splitlines()[2:] == [
        '"(7053,xx00)",Philips PET Private Group,DS'
    ]
    source.write_text(source.read_text("utf-8").replace("Clean Graph. Opt.", "Clean Voices Opt."), encoding="utf-8")
    with pytest.raises(SystemExit, match="new columns, which need an option: Clean Voices Opt"):
        generate(str(source), tmp_path)
