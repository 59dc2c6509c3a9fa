"""An index that is lost, cut or left, with files of the archive, and rebuilt by a command that is killed.

This is the short form of ``python -m tests.crash.loss --cycles 100``.
"""

from pathlib import Path

import pytest

from tests.crash.loss import HARMS, Losses

pytestmark = pytest.mark.long


@pytest.mark.timeout(600)
def test_what_was_acknowledged_is_there_or_named_after_every_rebuild(tmp_path: Path) -> None:
    losses = Losses(tmp_path)
    losses.run(len(HARMS))
    assert losses.problems == []
    assert losses.done["instances lost"]
    assert any(what.startswith("rebuild killed") for what in losses.done)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("mutant", "found"),
    [
        ("ledger-is-not-written", "acknowledged, "),  # and not listed, or not here: as long as the journal has it
        ("ledger-is-one-checkpoint-late", "neither in the ledger nor in the journal"),
        ("rebuilds-forget", "acknowledged, not here, and not named"),
    ],
)
def test_a_ledger_that_is_not_kept_is_found_out(tmp_path: Path, mutant: str, found: str) -> None:
    losses = Losses(tmp_path, mutant=mutant)
    losses.run(12)
    assert any(found in problem for problem in losses.problems), losses.problems
