"""Lines of the audit log that name something are found from the end, in blocks, across the files of the log."""

import math
from pathlib import Path

import pytest

from node.audit import audit_files
from node.audit.audit_files import lines_naming


@pytest.mark.parametrize("block", [1, 7, 20, 1000])
@pytest.mark.parametrize("end", ["", "\n"])
def test_each_line_that_names_something_is_found_once_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, end: str
) -> None:
    monkeypatch.setattr(audit_files, "BLOCK_BYTES", block)
    texts = ["1.2", "1.20", "1.2", "x", "Müller", "1.2"]
    lines = [f'{{"number": {number}, "uid": "{text}"}}' for number, text in enumerate(texts)]
    (tmp_path / "audit-000001.jsonl").write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    (tmp_path / "audit-000002.jsonl").write_bytes(b"")
    (tmp_path / "audit.jsonl").write_text("\n".join(lines[2:]) + end, encoding="utf-8")
    assert [line.decode() for line in lines_naming(tmp_path, "1.2", math.inf)] == [lines[5], lines[2], lines[0]]
    assert [line.decode() for line in lines_naming(tmp_path, "Müller", math.inf)] == [lines[4]]


def test_a_search_ends_at_its_deadline_but_after_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_files, "BLOCK_BYTES", 16)
    (tmp_path / "audit.jsonl").write_text('{"uid": "1.2"}\n' * 3)
    assert len(list(lines_naming(tmp_path, "1.2", -math.inf))) == 1
    assert len(list(lines_naming(tmp_path, "1.2", math.inf))) == 3
