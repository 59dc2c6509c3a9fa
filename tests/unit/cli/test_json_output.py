"""JSON that commands print: the same values, without a character that changes what a terminal shows."""

import json

import pytest

from node.cli.output import print_json

HOSTILE = "\u202egnp.exe \u2066x\u2069 \x9b31m \x7f \u200b \u2028 \ufeff \U000e0001 \ud800 \x1b[2J\n"


def test_no_character_of_a_value_turns_or_hides_what_stands_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({HOSTILE: [HOSTILE, "Müller 山田 🧠"]})
    text = capsys.readouterr().out
    assert all(character.isprintable() for line in text.splitlines() for character in line)
    assert len(text.splitlines()) == 6
    assert "Müller 山田 🧠" in text
    assert json.loads(text) == {HOSTILE: [HOSTILE, "Müller 山田 🧠"]}
