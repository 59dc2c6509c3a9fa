"""What is made of instances for requests never outlives them."""

from pathlib import Path
from typing import IO

import pytest

from node.archive.derived import Derived

KEY = "objects/00000000/0123456789abcdef0123456789abcdef.dcm"


def made(derived: Derived, source: Path, content: bytes = b"made", key: str = KEY) -> bytes:
    with derived.opened(key, source, "1", 100, lambda into: into.write(content)) as file:
        return file.read()


def test_what_was_made_is_not_made_again_until_it_is_dropped(tmp_path: Path) -> None:
    derived, source = Derived(tmp_path), tmp_path / "source"
    source.touch()
    assert made(derived, source) == made(derived, source, b"other") == b"made"
    derived.drop(KEY)
    assert made(derived, source, b"again") == b"again"


def test_what_is_made_while_its_instance_is_removed_is_sent_but_not_kept(tmp_path: Path) -> None:
    derived, source = Derived(tmp_path), tmp_path / "source"
    source.touch()

    def write(into: IO[bytes]) -> None:
        into.write(b"made")
        source.unlink()  # as a deletion does, which then drops what is there by now
        derived.drop(KEY)

    with derived.opened(KEY, source, "1", 100, write) as file:
        assert file.read() == b"made"
    assert [path for path in (tmp_path / "work" / "derived").rglob("*")] == []


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    derived, source = Derived(tmp_path), tmp_path / "source"
    source.touch()
    with pytest.raises(ValueError, match="damaged"):
        derived.opened(KEY, source, "1", 100, lambda into: int("damaged"))
    assert list((tmp_path / "work" / "derived").iterdir()) == []


def test_what_an_earlier_process_left_is_removed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.touch()
    made(Derived(tmp_path), source)
    assert made(Derived(tmp_path), source, b"again") == b"again"
    assert len(list((tmp_path / "work" / "derived").glob("*"))) == 1


def test_the_oldest_goes_once_there_is_more_than_fits(tmp_path: Path) -> None:
    derived, source = Derived(tmp_path), tmp_path / "source"
    source.touch()
    for name in ("first", "second", "third"):
        made(derived, source, bytes(40), f"objects/00000000/{name}")
    assert sorted(path.name for path in (tmp_path / "work" / "derived").iterdir()) == ["second", "third"]
