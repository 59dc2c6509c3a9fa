"""What a table of refusals shows of what a sender offered."""

from __future__ import annotations

from node.cli.look.audit import MAX_OFFER_CHARACTERS, REFUSALS


def test_an_offer_has_names_and_fits_a_line_and_comes_last() -> None:
    *_, (name, cell) = REFUSALS.items()
    assert name == "offered"
    assert callable(cell)
    assert cell({"offered": "1.2.840.10008.5.1.4.31: 1.2.840.10008.1.2.1, 1.2.999.1"}) == (
        "Modality Worklist Information Model - FIND: Explicit VR Little Endian, 1.2.999.1"
    )
    long = cell({"offered": ", ".join(f"1.2.840.10008.5.1.4.1.1.{number}" for number in range(128))})
    assert len(str(long)) <= MAX_OFFER_CHARACTERS + 5
    assert str(long).endswith(", ...")
    assert cell({"offered": None}) == ""
