"""Progress bars: one way for all commands, for people only."""

import sys

import pytest

from node.cli.output import each_shown


def test_a_bar_is_on_a_terminal_only_and_items_pass_in_their_order(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(each_shown("sending", [3, 1, 2])) == [3, 1, 2]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(each_shown("sending", [3, 1, 2])) == [3, 1, 2]
    out, shown = capsys.readouterr()
    assert out == ""
    assert "3/3" in shown
