"""Statuses."""

import pytest

from node.dicom.status import SopClassNotSupported, answer_to
from node.errors import ClassMismatch, InstanceRefused, NotUnderstood, OutOfResources


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (OutOfResources, 0xA700),
        (ClassMismatch, 0xA900),
        (NotUnderstood, 0xC000),
        (SopClassNotSupported, 0x0122),
        (InstanceRefused, 0xA700),  # a kind that no status is named for: uncertain, so the peer may try again
    ],
)
def test_each_refusal_has_its_status(refusal: type[InstanceRefused], status: int) -> None:
    assert answer_to(refusal("why")).status == status


def test_a_subclass_is_answered_as_its_kind() -> None:
    class DiskFull(OutOfResources):
        """Full."""

    assert answer_to(DiskFull()).status == 0xA700


def test_a_comment_fits_its_value_representation() -> None:
    assert answer_to(NotUnderstood("ä\\b\n\x1b[2J" + "x" * 100)).comment == ("??b??[2J" + "x" * 100)[:64]
