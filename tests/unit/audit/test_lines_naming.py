"""Lines of the audit log that name something are found from the end, in blocks, across the files of the log."""

import math
from pathlib import Path

import pytest

from node.audit import audit_files
from node.audit.audit_files import last_line, last_lines, lines_naming


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
    found = [[line.decode().rstrip() for line in lines_naming(tmp_path, text, math.inf)] for text in ("1.2", "Müller")]
    assert found == [[lines[5], lines[2], lines[0]], [lines[4]]]
    for count in range(1, 8):
        last, total = last_lines(tmp_path, count)
        assert ([line.decode().rstrip() for line in last], total) == (lines[-count:], 6 if end else 5)
        assert last[-1] == last_line(tmp_path) == (lines[5] + end).encode()


def test_a_search_ends_at_its_deadline_but_after_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_files, "BLOCK_BYTES", 16)
    (tmp_path / "audit.jsonl").write_text('{"uid": "1.2"}\n' * 3)
    assert len(list(lines_naming(tmp_path, "1.2", -math.inf))) == 1
    assert len(list(lines_naming(tmp_path, "1.2", math.inf))) == 3
