"""Names of converted files: readable, safe on every file system, each series its own."""

import datetime as dt
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.conversion.naming import (
    ANONYMOUS,
    DCM2NIIX,
    DEFAULT,
    EXTENSIONS,
    MAX_NAME_BYTES,
    RESERVED,
    TOKENS,
    TakenNames,
    is_file_of,
    name_template,
    node_template,
    numbered,
    safe_name,
)
from node.errors import UsageError

SERIES = {
    "series_number": 7,
    "series_description": "T1 mprage, sag p2",
    "protocol_name": "t1_mprage",
    "modality": "MR",
    "patient_name": "Döe^Jane=漢字",
    "patient_id": "A/17",
    "study_date": dt.date(2026, 1, 2),
    "study_time": dt.time(9, 8, 7, 5),
    "series_instance_uid": "1.2.3",
}


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{series_number:03}_{series_description}", "007_T1_mprage_sag_p2"),
        ("{series_uid}", "1.2.3"),
        ("{patient_id}-{study_date}_{study_time}", "A_17-20260102_090807"),
        ("{patient_name}", "Döe_Jane"),
        ("{accession_number}_{modality}", "MR"),
        ("run one", "run_one"),
        ("{study_id}", "series"),
        ("%p_%s", "t1_mprage_7"),
        ("%03s%e_%t", "007_20260102090807"),
        ("%i_%n_%S", "A_17_Döe_Jane_7"),
    ],
)
def test_a_template_is_filled_from_the_series(template: str, name: str) -> None:
    assert name_template(template).name_of(SERIES) == name


def test_every_token_and_every_letter_of_dcm2niix_is_accepted() -> None:
    for token in TOKENS:
        assert name_template(f"{{{token}}}").name_of(SERIES)
    for letter in DCM2NIIX:
        assert name_template(f"x%{letter}").name_of(SERIES).startswith("x")


def test_what_has_no_description_is_named_by_its_protocol_or_modality() -> None:
    assert name_template(DEFAULT).name_of({"protocol_name": "dwi", "modality": "MR"}) == "dwi"
    assert name_template(DEFAULT).name_of({"series_number": 3, "modality": "CT"}) == "003_CT"


@pytest.mark.parametrize(
    ("template", "reported"),
    [
        ("{serie}", "no token {serie}; the tokens are series_number, "),
        ("{series_number:x}", "':x' is not a number of digits"),
        ("{series_number.__class__}", "no token"),
        ("../{modality}", "write a name before and behind each slash"),
        ("/{modality}", "write a name before and behind each slash"),
        ("{patient_id}//{modality}", "write a name before and behind each slash"),
        ("{patient_id}/", "write a name before and behind each slash"),
        ("a\\\\{modality}", "write a name before and behind each slash"),
        ("{patient_id}/{series_number}/{modality}", "{series_number} cannot be used in the folder of a study"),
        ("{modality", "a brace is missing"),
        ("%p_%z", "%z has no equivalent"),
        ("%", "has no equivalent"),
    ],
)
def test_a_wrong_template_is_refused_by_name(template: str, reported: str) -> None:
    with pytest.raises(UsageError, match=r"-f|--name") as refused:
        name_template(template)
    assert reported in str(refused.value)
    assert repr(template) in str(refused.value)


@pytest.mark.parametrize("as_rows", [False, True])
def test_the_folder_of_a_study_is_a_path_of_names_and_the_rest_names_a_series(as_rows: bool) -> None:
    """Attributes of files and rows of the views, in which dates and times are text, give one path."""
    values = {**SERIES, "study_date": "2026-01-02", "study_time": "09:08:07.000005"} if as_rows else SERIES
    template = name_template("{patient_id}/{study_date}_{study_time}_{modality}/{study_date}_{series_number:02}")
    folder = template.folder_of(values, [values, {"modality": "CT"}, {"modality": None}, {}])
    assert f"{folder}/{template.name_of(values)}" == "A_17/20260102_090807_CT-MR/20260102_07"


def test_whatever_a_sender_chose_stays_in_its_part_of_a_path() -> None:
    template = name_template("{patient_id}/{study_description}/{series_description}")
    for hostile in ("../..", "/etc/x", "..", "", None, "CON", "a\\b", "x" * 500, "manifest.csv"):
        values = {"patient_id": hostile, "study_description": hostile, "series_description": hostile}
        parts = [*template.folder_of(values, []).split("/"), template.name_of(values)]
        assert len(parts) == 3
        assert all(part == safe_name(part) for part in parts)
    assert template.folder_of({}, []) == "unknown/unknown"


def test_a_node_needs_a_folder_for_each_study() -> None:
    assert node_template(None).text == DEFAULT
    for text, reported in (("{patient_id}", "the folder of a study and a slash"), ("{study_id}/{folder}", "{folder}")):
        with pytest.raises(UsageError, match=r"^names ") as refused:
            node_template(text)
        assert reported in str(refused.value)


def test_an_anonymous_name_shows_nothing_that_was_typed() -> None:
    assert name_template("{series_number}_{modality}", anonymous=True).name_of(SERIES) == "7_MR"
    with pytest.raises(UsageError, match=r"--anonymous, \{patient_name\} would be shown"):
        name_template(DEFAULT, anonymous=True)
    assert name_template(ANONYMOUS, anonymous=True).folder_of(SERIES | {"study_instance_uid": "1.2"}, []) == "1.2"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "etc_passwd"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("a\x00b\nc\u202ed", "a_b_c_d"),
        ("aux", "_aux"),
        ("CON.nii", "_CON.nii"),
        ("lpt¹", "_lpt¹"),
        ("conversion", "_conversion"),
        ("manifest.csv", "_manifest.csv"),
        ("a. .", "a"),
        ("漢字かな", "漢字かな"),
        ("ผู้ป่วย", "ผู้ป่วย"),
        ("e\u0301", "é"),
        ("***", "series"),
        ("EPI PE=AP", "EPI_PE_AP"),
        ("fmap PE-", "fmap_PE-"),
        ("fmap PE+", "fmap_PE+"),
        ("TI \u22125 \u2013 6", "TI_-5_-_6"),
        ("t2*_tra **new**", "t2star_tra_new"),
        ("3 mm.", "3_mm"),
        ("漢" * 40 + "-", "漢" * 40),
        ("漢" * 39 + "--- tail", "漢" * 39),
    ],
)
def test_a_name_is_safe(text: str, name: str) -> None:
    assert safe_name(text) == name


@given(st.text(max_size=300))
def test_any_text_becomes_one_plain_part_of_a_path(text: str) -> None:
    name = safe_name(text)
    assert 1 <= len(name.encode()) <= MAX_NAME_BYTES + 1
    assert not set(name) & set('/\\:*?"<>| \t\n\x00')
    assert name[0] not in "-."
    assert name[-1] not in ". "
    assert name.partition(".")[0].casefold() not in RESERVED
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("EPI PE=AP", "EPI PE=RL"),
        ("b=0", "b=1000"),
        ("fmap j", "fmap j-"),
        ("T2 map", "T2* map"),
        ("shift 5", "shift -5"),
        ("shift 5", "shift \u22125"),
        ("shift +5", "shift -5"),
    ],
)
def test_descriptions_that_differ_in_a_sign_give_names_that_differ(one: str, other: str) -> None:
    template = name_template(DEFAULT)
    assert len({template.name_of({**SERIES, "series_description": each}) for each in (one, other)}) == 2


def test_a_person_is_named_by_the_first_way_to_write_the_name_that_is_there() -> None:
    template = name_template("{patient_name}_{series_description}")
    named = {**SERIES, "series_description": "a=b"}
    assert template.name_of(named) == "Döe_Jane_a_b"
    assert template.name_of({**named, "patient_name": "^=山田^太郎=やまだ"}) == "山田_太郎_a_b"
    assert template.name_of({**named, "patient_name": "^^="}) == "A_17_a_b", "there is none"


def test_a_taken_name_is_numbered_within_its_length() -> None:
    assert list(itertools.islice(numbered("T1"), 3)) == ["T1", "T1-2", "T1-3"]
    assert list(itertools.islice(numbered("P1/2026"), 2)) == ["P1/2026", "P1/2026-2"]
    assert all(len(name.encode()) <= MAX_NAME_BYTES for name in itertools.islice(numbered("é" * 60), 12))


def test_names_that_differ_in_case_only_are_one() -> None:
    taken = TakenNames(one_folder=False)
    taken.add("T1")
    assert "t1" in taken
    assert "T1_e2" not in taken


def test_in_one_folder_no_name_is_another_with_a_suffix_of_a_volume() -> None:
    taken = TakenNames(one_folder=True)
    taken.add("T1")
    taken.add("fmap_e2_ph")
    for name in ("T1_e2", "t1_resampled_thumbnail", "fmap", "fmap_e2"):
        assert name in taken
    for name in ("T1-2", "T1_gd", "fmap_e1", "T"):
        assert name not in taken


def test_files_of_a_series_are_distinguished_from_those_that_somebody_put_beside_them() -> None:
    for extension in EXTENSIONS.replace("\\", "").split("|"):
        assert is_file_of(f"T1.{extension}", "T1")
        assert is_file_of(f"T1_e2_ph_t003.{extension}", "T1")
    for other in ("T1_brain.nii.gz", "T1.mat", "T1-2.nii.gz", "T12.nii.gz", "xT1.nii.gz", "T1", "notes.txt"):
        assert not is_file_of(other, "T1")
