"""What is accepted, against the dictionaries of other projects."""

import pytest
from pydicom.uid import (
    JPEG2000,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pynetdicom import sop_class

from node.dicom.uids import VERIFICATION, choose_transfer_syntax, is_accepted_transfer_syntax, is_storage_class


def test_every_storage_class_that_pynetdicom_knows_is_taken() -> None:
    assert [uid for uid in sop_class._STORAGE_CLASSES.values() if not is_storage_class(uid)] == []


@pytest.mark.parametrize(
    "classes",
    [
        sop_class._QR_CLASSES,
        sop_class._BASIC_WORKLIST_CLASSES,
        sop_class._PROCEDURE_STEP_CLASSES,
        sop_class._STORAGE_COMMITMENT_CLASSES,
        sop_class._PRINT_MANAGEMENT_CLASSES,
        sop_class._VERIFICATION_CLASSES,
    ],
    ids=["query", "worklist", "procedure step", "commitment", "print", "verification"],
)
def test_no_class_of_another_service_is_taken(classes: dict[str, str]) -> None:
    assert [uid for uid in classes.values() if is_storage_class(uid)] == []


@pytest.mark.parametrize("uid", ["1.2.840.113619.4.26", "1.3.46.670589.11.0.0.12.1", "1.2.840.10008.5.1.4.1.1.777"])
def test_private_and_young_classes_are_taken(uid: str) -> None:
    assert is_storage_class(uid)


def test_of_all_transfer_syntaxes_only_those_with_pixels_elsewhere_are_refused() -> None:
    refused = {uid for uid in AllTransferSyntaxes if not is_accepted_transfer_syntax(uid)}
    assert refused == {
        "1.2.840.10008.1.2.4.95",
        "1.2.840.10008.1.2.4.205",
        "1.2.840.10008.1.2.7.1",
        "1.2.840.10008.1.2.7.2",
        "1.2.840.10008.1.2.7.3",
    } & set(AllTransferSyntaxes)


def test_a_young_standard_syntax_is_taken_and_a_private_one_is_not() -> None:
    assert is_accepted_transfer_syntax("1.2.840.10008.1.2.4.999")
    assert not is_accepted_transfer_syntax("1.2.840.113619.5.2")
    assert not is_accepted_transfer_syntax("1.2.840.10008.1.1")


def test_the_first_acceptable_syntax_of_the_sender_is_chosen() -> None:
    offered = [DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000, ImplicitVRLittleEndian]
    assert choose_transfer_syntax("1.2.3", offered) == RLELossless
    assert choose_transfer_syntax("1.2.3", [DeflatedExplicitVRLittleEndian]) == DeflatedExplicitVRLittleEndian
    assert choose_transfer_syntax("1.2.3", ["1.2.840.10008.1.2.4.95"]) is None
    assert choose_transfer_syntax(VERIFICATION, [DeflatedExplicitVRLittleEndian]) == DeflatedExplicitVRLittleEndian
