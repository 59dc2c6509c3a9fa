"""The pictures of README and documents show what the pages and the command say now."""

from pathlib import Path

import pytest

from tests.documents import pictures, tour

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "images"


@pytest.mark.slow
@pytest.mark.timeout(400)  # the processor renders the volume in space
def test_the_pictures_show_what_is_said_now(tmp_path: Path) -> None:
    pictures.record(tmp_path)
    assert_shown(tmp_path, "pictures docs/images")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_tour_shows_what_is_said_now(tmp_path: Path) -> None:
    tour.record(tmp_path / "tour.webp")
    assert_shown(tmp_path, "tour docs/images/tour.webp")


def assert_shown(folder: Path, program: str) -> None:
    assert [*folder.iterdir()] != []
    for path in folder.iterdir():
        now, shown = pictures.words_of(path), pictures.words_of(PICTURES / path.name)
        assert now == shown, f"{path.name}: run python -m tests.documents.{program}"
