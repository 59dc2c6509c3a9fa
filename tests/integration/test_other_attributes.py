"""Attributes without a column: what queries match and return, compared with pydicom's reading of the same data sets."""

import datetime as dt
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, FileDataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.keys import Level, QueryModel
from node.dicom.matching import Options, read_query
from node.index.rows.records import Received
from node.index.rows.view_rows import OF_IMAGES, column_of
from tests import make
from tests.integration.conftest import Root
from tests.integration.test_lifecycle import arrived_at
from tests.made_once import IN_POSTGRESQL
from tests.rows import view_rows

OPTIONS = Options(relational=True, combined_datetime=True)
CREATOR = "EXAMPLE 1.0"
TEXTS = {
    "InstitutionName": ("General", "West\\wing", "Klinik Süd", None),
    "ImageType": (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY"]),
    "KVP": ("120", "120.0", "80", None),
    "EchoNumbers": ("1", "2"),
    "OperatorsName": ("Roe^Ann", "Doe^Jim", None),
    "AcquisitionDateTime": ("20240102101500", "20240103", None),
    "BitsAllocated": (8, 16),
    "FlipAngle": ("9.5", "90"),
    "AcquisitionDate": ("20240102", "20240104"),
}  # fmt: skip


def with_private(ds: Dataset, value: str, block: int, creator: str = CREATOR) -> None:
    ds.add_new((0x0029, block), "LO", creator)
    ds.add_new(Tag(0x0029, block << 8 | 0x10), "LO", value)


def coded(ds: Dataset, value: str) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "99X", f"about {value}"
    ds.ProcedureCodeSequence = [code]


def population(seed: int = 3, count: int = 60) -> list[FileDataset]:
    chance, made = random.Random(seed), []
    for number in range(count):
        study, series = number % 4, number % 12
        ds = make.instance(
            study_uid=f"1.2.{study}", series_uid=f"1.2.{study}.{series}", SpecificCharacterSet="ISO_IR 100"
        )
        ds.InstanceNumber = number
        steady = random.Random(series)
        for keyword, values in TEXTS.items():
            value = (steady if series < 8 else chance).choice(values)
            if value is not None:
                setattr(ds, keyword, value)
        coded(ds, chance.choice(("P1", "P2")) if series % 2 else "P3")
        with_private(ds, chance.choice("ab"), 0x10 + number % 3)
        if number % 3:
            with_private(ds, "z", 0x20, "OTHER")
        made.append(ds)
    return made


def store(root: Root, instances: Sequence[FileDataset]) -> None:
    now = dt.datetime(2024, 1, 2, tzinfo=dt.UTC)
    root.index.instances.add([arrived_at(ds, now) for ds in instances])


def identifier(level: Level = Level.IMAGE, **keys: Any) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level.name
    for keyword, value in keys.items():
        ds.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=IGNORE))
    return ds


def answers(root: Root, keys: Dataset) -> list[Any]:
    return list(root.index.find(read_query(keys, QueryModel.PATIENT_ROOT, OPTIONS)))


def found(root: Root, keys: Dataset) -> set[str]:
    return {str(answer["SOPInstanceUID"]) for answer in answers(root, keys)}


def values_of(ds: Dataset, keyword: str) -> list[str]:
    value = ds.get(keyword)
    parts = value if isinstance(value, list) or hasattr(value, "append") else [value]
    return [str(part) for part in parts if part not in (None, "")]


def is_match(keyword: str, key: str, value: str) -> bool:
    """A plain reading of PS3.4 C.2.2.2 for the keys below."""
    if keyword in ("KVP", "FlipAngle", "EchoNumbers", "BitsAllocated"):
        return float(value) == float(key)
    if keyword in ("AcquisitionDateTime", "AcquisitionDate"):
        return value.startswith(key) or key.startswith(value)
    if key.endswith("*"):
        return value.lower().startswith(key[:-1].lower()) if keyword == "OperatorsName" else value.startswith(key[:-1])
    return value == key


@dataclass(repr=False)
class World:
    root: Root
    instances: list[FileDataset]


@pytest.fixture
def filled(root: Root) -> World:
    instances = population()
    for at in range(0, len(instances), 7):
        store(root, instances[at : at + 7])
    return World(root, instances)


KEYS = {
    "InstitutionName": ("General", "West*", "Klinik S*", "nothing"),
    "ImageType": ("AXIAL", "DERIVED", "PRIM*"),
    "KVP": ("120", "80.0", "7"),
    "EchoNumbers": ("1", "2"),
    "OperatorsName": ("ROE*", "Doe^Jim"),
    "AcquisitionDateTime": ("20240102", "20240103"),
    "BitsAllocated": ("8", "16"),
    "FlipAngle": ("9.50", "90"),
    "AcquisitionDate": ("20240102", "20240104"),
}  # fmt: skip


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(KEYS)), st.integers(0, 3), min_size=1, max_size=3), st.booleans())
def test_random_keys_find_what_pydicom_reads(filled: World, chosen: dict[str, int], with_code: bool) -> None:
    keys = {keyword: KEYS[keyword][number % len(KEYS[keyword])] for keyword, number in chosen.items()}
    asked = identifier(**{k: int(v) if k == "BitsAllocated" else v for k, v in keys.items()})
    if with_code:
        asked.ProcedureCodeSequence = [identifier_item(CodeValue="P1", CodingSchemeDesignator="99X")]
    wanted = {
        str(ds.SOPInstanceUID)
        for ds in filled.instances
        if all(any(is_match(k, key, value) for value in values_of(ds, k)) for k, key in keys.items())
        and (not with_code or ds.ProcedureCodeSequence[0].CodeValue == "P1")
    }
    assert found(filled.root, asked) == wanted


def identifier_item(**keys: Any) -> Dataset:
    item = Dataset()
    for keyword, value in keys.items():
        setattr(item, keyword, value)
    return item


@pytest.mark.slow
def test_private_elements_are_matched_by_creator_and_element_whatever_their_block(filled: World) -> None:
    asked = identifier()
    with_private(asked, "a", 0x77)
    wanted = {str(ds.SOPInstanceUID) for ds in filled.instances if ds.private_block(0x0029, CREATOR)[0x10].value == "a"}
    assert found(filled.root, asked) == wanted
    model = answers(filled.root, asked)[0].others
    assert model["00297710"] == {"vr": "LO", "Value": ["a"]}
    assert model["00290077"] == {"vr": "LO", "Value": [CREATOR]}


@pytest.mark.slow
def test_twenty_private_keys_of_a_creator_are_known(root: Root) -> None:
    """Also of implicit encoding, if pydicom knows the creator; else their VR is lost, and they are not known."""
    ds = make.instance(transfer_syntax_uid=ExplicitVRLittleEndian)
    block = ds.private_block(0x0021, "TWENTY", create=True)
    for element in range(20):
        block.add_new(
            element, ("DS", "IS", "FD", "SH", "US")[element % 5], (f"{element}.5", element, 0.25, "x", 7)[element % 5]
        )
    store(root, [ds])
    for element in range(20):
        for key, is_there in ((str((f"{element}.5", element, 0.25, "x", 7)[element % 5]), True), ("99", False)):
            asked = identifier()
            asked.add_new(Tag(0x0021, 0x0044), "LO", "TWENTY")
            asked.add_new(Tag(0x0021, 0x4400 | element), "LO", key)
            assert bool(found(root, asked)) is is_there, (element, key)


def test_what_is_left_out_is_not_known_and_never_a_false_no(root: Root) -> None:
    ds, short = make.instance(ImageComments="x" * 5000), make.instance(ImageComments="short")
    store(root, [ds, short])
    [answer] = answers(root, identifier(ImageComments="other"))
    assert answer["SOPInstanceUID"] == ds.SOPInstanceUID
    assert not answer.is_certain
    assert found(root, identifier(ImageComments="short")) == {str(ds.SOPInstanceUID), str(short.SOPInstanceUID)}


def test_a_value_that_is_nearly_a_number_stops_neither_its_storage_nor_a_query(root: Root) -> None:
    ds, other = make.instance(), make.instance(EchoNumbers="1")
    ds.add(DataElement("EchoNumbers", "IS", "--1", validation_mode=IGNORE, already_converted=True))
    store(root, [ds, other])
    assert found(root, identifier(EchoNumbers="1")) == {str(other.SOPInstanceUID)}


def test_an_instance_without_a_document_is_not_known(root: Root) -> None:
    old, new = make.instance(KVP="80"), make.instance(KVP="80")
    received = arrived_at(old, dt.datetime(2024, 1, 2, tzinfo=dt.UTC))
    root.index.instances.add([Received(received.attributes, received.file, 60.0)])
    store(root, [new])
    assert found(root, identifier(KVP="80")) == {str(old.SOPInstanceUID), str(new.SOPInstanceUID)}
    assert found(root, identifier(KVP="81")) == {str(old.SOPInstanceUID)}
    later = make.instance(KVP="81", study_uid=old.StudyInstanceUID, series_uid=old.SeriesInstanceUID)
    store(root, [later])  # the series has a document now, its first instance still has none
    assert found(root, identifier(KVP="81")) == {str(old.SOPInstanceUID), str(later.SOPInstanceUID)}


def test_higher_levels_have_what_most_of_their_instances_have(root: Root) -> None:
    same = {"study_uid": "1.2.3", "InstitutionName": "General"}
    store(root, [make.instance(series_uid="1.2.3.1", KVP=kvp, **same) for kvp in ("80", "120")])
    store(root, [make.instance(series_uid="1.2.3.2", KVP="80", **same)])
    [study] = answers(root, identifier(Level.STUDY, InstitutionName="Gen*", KVP=None))
    assert study.others["00080080"]["Value"] == ["General"]
    assert study.others["00180060"]["Value"] == ["80"]
    series = answers(root, identifier(Level.SERIES, KVP="120"))
    assert [one["SeriesInstanceUID"] for one in series] == ["1.2.3.1"]
    assert answers(root, identifier(Level.PATIENT, KVP="120")) != []
    assert answers(root, identifier(Level.STUDY, KVP="120", InstitutionName="West")) == []


def test_a_second_version_takes_the_document_of_the_first(root: Root) -> None:
    first = make.instance(KVP="80")
    second = make.instance(
        KVP="120", study_uid=first.StudyInstanceUID, series_uid=first.SeriesInstanceUID,
        sop_instance_uid=first.SOPInstanceUID,
    )  # fmt: skip
    store(root, [first])
    received = arrived_at(second, dt.datetime(2024, 1, 3, tzinfo=dt.UTC))
    file = replace(received.file, sha256="1" * 64, key=received.file.key + "2", quarantine_key="quarantine/2")
    root.index.instances.add([replace(received, file=file, overwrite_policy="replace")])
    assert found(root, identifier(KVP="120")) == {str(first.SOPInstanceUID)}
    assert found(root, identifier(KVP="80")) == set()


def test_what_is_deleted_leaves_no_document(root: Root) -> None:
    kept = make.instance(KVP="80", InstitutionName="General")
    gone = make.instance(KVP="81", study_uid=kept.StudyInstanceUID, series_uid=kept.SeriesInstanceUID)
    gone.ImageComments = "only here"
    store(root, [gone, kept])
    root.delete("instance", str(gone.SOPInstanceUID))
    [base] = root.rows("SELECT document FROM series_documents")
    assert json.loads(base["document"])["KVP"] == "80"
    assert "only here" not in base["document"]
    [count] = root.rows("SELECT count(*) AS of_images FROM image_documents")
    assert count["of_images"] == 1
    assert found(root, identifier(KVP="80")) == {str(kept.SOPInstanceUID)}


def test_text_is_decoded_in_implicit_encoding_and_code_extensions(root: Root) -> None:
    ds = make.instance(transfer_syntax_uid=ImplicitVRLittleEndian, SpecificCharacterSet=["", "ISO 2022 IR 87"])
    ds.InstitutionName = "病院"
    store(root, [ds])
    asked = identifier(InstitutionName="病*")
    asked.SpecificCharacterSet = "ISO_IR 192"
    [answer] = answers(root, asked)
    assert answer.others["00080080"]["Value"] == ["病院"]


def in_view(root: Root, uid: str) -> dict[str, Any]:
    [row] = view_rows(root.folder, "SELECT * FROM v_images WHERE sop_instance_uid = :uid", uid=uid)
    return row


def test_the_view_of_images_has_each_of_its_attributes_as_the_instance_says(root: Root) -> None:
    said: dict[str, dict[str, Any]] = {}
    for number in range(3):
        ds = make.instance(study_uid="1.2.3", series_uid="1.2.3.4")
        row = said[str(ds.SOPInstanceUID)] = {}
        for keyword in OF_IMAGES:
            vr, several = dictionary_VR(keyword), not dictionary_VM(keyword).startswith("1")
            is_number = vr in ("DS", "IS", "US", "FD")
            value = (
                f"{number + 1}.50"[: 1 if vr in ("IS", "US") else 4] if is_number else f"{keyword[:9].upper()} {number}"
            )
            if is_number and not several and number == 1 and dictionary_VM(keyword) == "1-n":
                value += "\\7"
            if several:
                value = "\\".join([value] * (2 if vr == "CS" else int(dictionary_VM(keyword))))
            if number == 2 and not is_number:
                if keyword in ds:
                    del ds[keyword]
                row[column_of(keyword)] = None
                continue
            ds.add(
                DataElement(
                    keyword,
                    vr,
                    int(value) if vr == "US" else float(value) if vr == "FD" else value,
                    validation_mode=IGNORE,
                )
            )
            row[column_of(keyword)] = float(value.split("\\")[0]) if is_number and not several else value
        for axis in "xyz":
            row[f"image_position_patient_{axis}"] = number + 1.5
        store(root, [ds])
    for uid, expected in said.items():
        shown = in_view(root, uid)
        assert {name: shown[name] for name in expected} == expected


@pytest.mark.parametrize("text", ["abc", "12.3.4", '1"0', " ", "\\5", "nan", "0x10", "1e999", "--1"])
def test_what_is_no_number_is_none_in_the_view(root: Root, text: str) -> None:
    ds = make.instance()
    ds[0x00180060] = RawDataElement(Tag(0x00180060), "DS", len(text), text.encode(), 0, False, True)
    store(root, [ds])
    assert in_view(root, str(ds.SOPInstanceUID))["kvp"] is None


def test_a_value_of_another_vr_and_one_of_an_instance_alone_are_in_the_view(root: Root) -> None:
    first, second, third = (make.instance(study_uid="1.2.3", series_uid="1.2.3.4") for _ in range(3))
    first.add_new("KVP", "SH", " 1.2e2")
    third.KVP = " 80.0"
    store(root, [first, second, third])
    assert [in_view(root, str(ds.SOPInstanceUID))["kvp"] for ds in (first, second, third)] == [120, None, 80]


def test_whoever_does_not_ask_for_attributes_of_documents_reads_none(root: Root) -> None:
    if IN_POSTGRESQL:
        pytest.skip("PostgreSQL leaves out joins by a unique key that nobody needs")
    for columns in ("sop_instance_uid, path", "count(*)", "DISTINCT calling_ae_title"):
        rows = view_rows(
            root.folder, f"EXPLAIN QUERY PLAN SELECT {columns} FROM v_images WHERE study_instance_uid = '1'"
        )
        assert not [row for row in rows if "document" in row["detail"]], rows


@pytest.mark.parametrize("text", ["10", "1015", "101500", "101500.0", "101500.1", "101500.123456"])
def test_times_are_answered_as_they_are_stored_and_found_by_what_they_mean(root: Root, text: str) -> None:
    times = "StudyTime", "SeriesTime", "ContentTime", "PatientBirthTime", "PerformedProcedureStepStartTime"
    ds = make.instance(StudyDate="20240102", EchoTime="1.50")
    for keyword in times:
        setattr(ds, keyword, text)
    store(root, [ds])
    [answer] = answers(root, identifier(EchoTime="", **dict.fromkeys(times, "")))
    assert [answer[keyword] for keyword in times] == [text] * len(times)
    assert answer.others["00180081"]["Value"] == ["1.50"]
    meant = f"{text[:6]:0<6}.{text[7:]:0<6}"
    for key in (meant, f"{meant}-", f"-{meant}", text):
        assert [len(answers(root, identifier(**{keyword: key}))) for keyword in times] == [1] * len(times), key
