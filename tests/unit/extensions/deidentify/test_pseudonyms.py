"""Pseudonyms are the same everywhere by one key, and the file of keys is its owner's alone."""

from pathlib import Path

import pytest

from node.children.pseudonyms import Patient, PseudonymKey, made_key, new_key_file, passing_key, read_keys, rotate
from node.errors import UsageError
from node.extensions.deidentify.elements import shifted
from node.extensions.deidentify.text import Identities
from tests.unit.extensions.deidentify.orders import KEY

PATIENT = Patient("HOSPITAL", "4711")


def test_pseudonyms_depend_on_the_key_and_the_identity_alone() -> None:
    # Fixed values: two nodes of different releases must agree, and so must two decades.
    assert KEY.patient(PATIENT) == "NZNJEE3KIJFQ"
    assert KEY.uid("1.2.3") == "2.25.323208961630152073077901537594917788276"
    assert KEY.days_earlier(PATIENT) == 1322
    assert PseudonymKey("test", bytes(32)).patient(PATIENT) != KEY.patient(PATIENT)
    assert KEY.patient(Patient("HOSPITA", "L4711")) != KEY.patient(PATIENT)
    assert KEY.uid("1.2.840.10008.1.2").startswith("2.25.")
    assert passing_key().secret != passing_key().secret


def test_a_key_is_never_shown() -> None:
    assert repr(KEY) == "PseudonymKey('test')"


def test_a_file_of_keys_is_private_and_rotates(tmp_path: Path) -> None:
    path = tmp_path / "trial.key"
    first = new_key_file(path, "2026")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_keys(path) == [first]
    second = rotate(path, "2027")
    assert read_keys(path) == [second, first]
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="exists"):
        new_key_file(path)
    with pytest.raises(UsageError, match="2027: a key of this name is there already"):
        rotate(path, "2027")
    assert made_key(path) == second
    assert made_key(tmp_path / "other.key") == made_key(tmp_path / "other.key")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.key", "trial.key"]
    path.chmod(0o640)
    with pytest.raises(UsageError, match="others may read or change the key; `chmod 600"):
        read_keys(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no key"),
        ("# only this\n", "no key"),
        ("a 1234\n", "line 1: a key is a name and 64 hexadecimal digits"),
        (f"a {'0' * 64}\na {'1' * 64}\n", "two keys have one name"),
    ],
)
def test_a_file_that_is_no_file_of_keys_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "trial.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=message):
        read_keys(path)


def test_a_key_that_is_missing_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="voxelnode pseudonyms new"):
        read_keys(tmp_path / "none.key")
    with pytest.raises(UsageError, match="must be in a file"):
        read_keys(tmp_path)


def test_dates_move_by_whole_days() -> None:
    assert shifted("DA", "20240301", 1) == "20240229"
    assert shifted("DA", "2024.03.01", 366) == "20230301"
    assert shifted("DT", "20240301101500.25+0100", 1) == "20240229101500.25+0100"
    assert [shifted("DA", text, 1) for text in ("", "2024", "20241301", "00010101", "tomorrow")] == [""] * 5
    assert [shifted("DT", text, 1) for text in ("", "202403", "2024")] == [""] * 3


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("T1 MPRAGE sag 1.0mm iso", "T1 MPRAGE sag 1.0mm iso"),
        ("ep2d_diff_b1000_TRACEW", "ep2d_diff_b1000"),
        ("Chest CT Mr. Doe born 1962, tel 5551234", "Chest CT Mr"),
        ("CT Thorax for Dr Hinterhuber-Maier", "CT Thorax for"),
        ("ABDOMEN 4711 liver", "ABDOMEN liver"),
        ("Thorax 1.25 mm B30f b0 b1000 p2 64dir 2x2x2", "Thorax 1.25 mm B30f b0 b1000 p2 64dir 2x2x2"),
        ("Abdomen run 2, 3 mm, TE 30, dir16", "Abdomen run 2, 3 mm, TE 30, dir16"),
        ("Head 97Y AB97 JD1985 b1985 0401 97 12.11 401", "Head"),
        ("Room 12 liver 1962 TR 1962 3x1985", "Room liver TR"),
        ("DWI b2000 TR 2000, 1.5x1.5x3 mm run1", "DWI b2000 TR 2000, 1.5x1.5x3 mm run1"),
        ("L5/S1 75% bed 2, 64 dirs FOV 400 70 keV", "L5/S1 75% bed 2, 64 dirs FOV 400 70 keV"),
        ("Head 97 y F62 M 62 born 2000 97x b85", "Head y M"),
        ("", ""),
    ],
)
def test_free_text_keeps_words_that_say_nothing_of_a_person(text: str, cleaned: str) -> None:
    assert Identities(["4711", "Doe"]).cleaned(text) == cleaned


def test_identities_are_removed_from_text_that_stays() -> None:
    identities = Identities(["Lee", "12345678", "ab"])
    assert identities.without("fleece of Lee, ID12345678x") == "fleece of , ID x"
    assert identities.without("cab") == "cab"
