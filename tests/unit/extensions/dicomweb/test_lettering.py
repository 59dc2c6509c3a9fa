"""Letters in pictures, also those that the font of Pillow lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom import Dataset

from node.extensions.dicomweb import lettering
from node.extensions.dicomweb.annotation import patient_lines, visible
from node.extensions.dicomweb.lettering import length, runs, write
from node.extensions.dicomweb.pictures import annotated

DEJAVU = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
CJK = Path("/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf")


def needs(*files: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not all(file.exists() for file in files), reason="needs fonts of the machine")


def written(line: str) -> np.ndarray:
    image = Image.new("L", (400, 40))
    write(ImageDraw.Draw(image), (4, 4), line, 20, fill=255)
    return np.asarray(image)


@needs(DEJAVU, CJK)
@pytest.mark.parametrize(
    "line", ["Παπαδόπουλος, Νίκος", "Иванова, Анна", "Müller, Jürgen", "山田, 太郎", "ヤマダ, タロウ"]
)
def test_names_in_other_letters_are_written_as_they_are(line: str) -> None:
    assert "".join(run.text for run in runs(line, 20)) == line
    letters = [written(letter) for letter in set(line) - {",", " "}]
    assert len({letter.tobytes() for letter in letters}) == len(letters), "each letter has a form of its own"
    assert length(line, 20) > 60
    assert written(line).max() == 255


@needs(DEJAVU, CJK)
def test_a_line_of_two_scripts_has_a_font_for_each() -> None:
    parts = runs("Yamada, Taro  山田, Ωραία", 20)
    assert "".join(part.text for part in parts) == "Yamada, Taro  山田, Ωραία"
    assert len({id(part.font) for part in parts}) > 1


def test_without_fonts_of_the_machine_letters_are_latin_or_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_files", lambda: [])
    lettering._parts.cache_clear()
    try:
        assert [run.text for run in runs("Müller, Ann 山田", 20)] == ["Muller, Ann ??"]
    finally:
        lettering._parts.cache_clear()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou  山田, 太郎"),
        ("=山田^太郎=やまだ^たろう", "山田, 太郎"),
        ("==やまだ^たろう", "やまだ, たろう"),
        ("Иванова^Анна", "Иванова, Анна"),
        ("^^", "no name"),
    ],
)
def test_a_name_is_shown_in_the_ways_in_which_it_is_written(name: str, shown: str) -> None:
    ds = Dataset()
    ds.PatientName = name
    assert patient_lines(ds)[0] == shown


def test_what_cannot_be_seen_is_a_question_mark() -> None:
    assert visible("a\u202eb\u200cc\ud800d") == "a?b\u200cc?d"


@pytest.mark.parametrize("line", ["\u0301" * 200, "ﷺ" * 50, "👩‍👩‍👧" * 20, "א" * 60 + "a" * 60])
def test_no_letters_leave_the_picture(line: str) -> None:
    marked = annotated(Image.new("L", (200, 200), 128), [visible(line)], [])
    assert marked.size == (200, 200)
