"""What a start does with records of the journal that it cannot read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from node.journal.segment import Damage
from node.receive.accounting import Checkpoint


def test_each_record_that_cannot_be_read_is_counted_and_its_segment_kept_once(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    damages = [
        *(Damage(first, last, tmp_path / "there") for first, last in ((2, 4), (7, 7))),
        Damage(9, 8, tmp_path / "gone"),
    ]
    copied: list[Path] = []
    gaps: list[str] = []
    parts: dict[str, Any] = {
        "journal": SimpleNamespace(replay=lambda after: damages),
        "archive": SimpleNamespace(
            quarantine_copy=lambda path: copied.append(path) or "copy", make_folders=list, quarantine_key=str
        ),
        "index": SimpleNamespace(
            lost=SimpleNamespace(
                note_gap=lambda detail, now, copy: gaps.append(detail),
                stored_at=lambda keys: [],
                replaced=lambda uids: {},
            ),
            instances=SimpleNamespace(named_keys=lambda keys: set()),
        ),
    }
    checkpoint = Checkpoint(**parts)
    assert (checkpoint.replay(len, 1, 10, 1000).damaged, checkpoint.is_damaged) == (4, True)
    assert copied == [tmp_path / "there"]
    assert [gap.partition(" of the journal")[0] for gap in gaps] == [
        "records 2 to 4", "records 7 to 7", "records from 9 on, if there were any,",
    ]  # fmt: skip
