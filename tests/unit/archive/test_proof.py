"""What the proof of a backup says of itself."""

import pytest

from node.archive.proof import Proof

AT = "2026-01-02T03:04:00+00:00"


@pytest.mark.parametrize(
    ("proof", "ok", "words"),
    [
        (Proof(AT, AT, "b", instances=7, volumes_again=2), True, ": 7 instances whole, 2 series converted again"),
        (Proof(AT, None, "b", differences=3), False, ": `voxelnode backup --prove b`; no success yet"),
        (Proof(AT, AT, "b", problem="no room"), False, ": no room; last success 2026-01-0"),
    ],
)
def test_a_proof_says_what_was_found_and_when_it_succeeded_last(proof: Proof, ok: bool, words: str) -> None:
    assert (proof.ok, words in proof.text) == (ok, True), proof.text
    assert proof.succeeded_timestamp == (1767323040 if proof.succeeded_at else 0)
