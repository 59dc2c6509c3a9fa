"""``voxelnode worklist check``: which files have no entry, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.cli import main
from tests.protocol.test_worklist import entry


def test_files_without_an_entry_are_named_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "right.json").write_text(entry(1).to_json())
    with pytest.raises(SystemExit) as ended:
        main(["worklist", "check", str(tmp_path)])
    assert (ended.value.code, "every file has an entry" in capsys.readouterr().out) == (0, True)
    (tmp_path / "wr\x1bong.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        main(["worklist", "check", str(tmp_path)])
    printed = capsys.readouterr().out
    assert ended.value.code == 1
    assert "wr\\x1bong.json: ScheduledProcedureStepSequence (0040,0100) must have one item" in printed
