"""Each defence against what operators do is needed: without it, orders of the operations that meet it find the loss."""

import pytest

from tests.crash.interleavings import caught
from tests.crash.operators_mutants import OPERATORS_MUTANTS

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ORDERS = 40
SEED = 1

LOST, ALTERED = "acknowledged and lost", "not what its row says"
NOT_REMOVED = "deleted, and "

FOUND = {
    "rows-are-believed-when-instances-come-again": (LOST, ["harm", "send_what_was_harmed", "stop"]),
    "rows-are-believed-when-files-are-adopted": (LOST, ["backup", "harm", "send_what_was_harmed", "restore_index"]),
    "digests-of-rows-are-believed": (ALTERED, ["mislead", "fsck", "stop"]),
    "revisions-share-folders": ("a volume is not what its row says", ["correct_while_converting"]),
    "claims-are-never-revoked": (NOT_REMOVED, ["correct_while_converting"]),
    "new-indexes-have-no-deletions": (NOT_REMOVED, ["trash", "rebuild"]),
    "new-indexes-have-no-merges": ("instead of", ["merge", "send_new", "rebuild"]),
    "new-indexes-have-no-quarantine": (NOT_REMOVED, ["send_again", "rebuild", "delete"]),
    "folders-are-believed-before-they-exist": (
        f"does not start|stays closed|{LOST}",
        ["fill_the_disk", "make_room", "send_new", "stop"],
    ),
    "losers-are-believed": (LOST, ["send_again", "harm", "send_what_was_harmed"]),
    "losers-are-not-compared": ("fsck says nothing", ["send_again", "harm", "fsck"]),
    "paths-are-decoded-twice": ("does not start", ["stop"]),
    "damage-is-converted": ("a file with a flipped bit", ["send_new", "harm", "reconvert"]),
    "errors-are-damage": (f"{LOST}|{ALTERED}", ["unreadable", "stop"]),
    "quarantine-keeps-current-files": (ALTERED, ["restore_copy"]),
    "nobody-asks-for-the-archive": ("without its archive", ["fsck_without_archive", "stop"]),
}
"""What is found, and the operations that meet the defence."""


@pytest.mark.parametrize("mutant", FOUND)
def test_a_node_without_a_defence_against_operators_is_found_out(mutant: str) -> None:
    found, actors = FOUND[mutant]
    problem = caught(mutant, actors, ORDERS, SEED)
    assert problem is not None, f"{mutant} was not found out"
    assert any(words in problem for words in found.split("|")), problem


def test_every_defence_is_tried() -> None:
    assert FOUND.keys() == OPERATORS_MUTANTS.keys()
