"""What a list of refusals shows of what a sender offered."""

from node.cli.look.audit import MAX_OFFER_CHARACTERS, shown_offer


def test_an_offer_has_names_and_fits_a_few_lines() -> None:
    assert shown_offer("1.2.840.10008.5.1.4.31: 1.2.840.10008.1.2.1, 1.2.999.1") == (
        "Modality Worklist Information Model - FIND: Explicit VR Little Endian, 1.2.999.1"
    )
    long = shown_offer(", ".join(f"1.2.840.10008.5.1.4.1.1.{number}" for number in range(128)))
    assert len(long) <= MAX_OFFER_CHARACTERS + 5
    assert long.endswith(", ...")
    assert shown_offer(None) == ""
