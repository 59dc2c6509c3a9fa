"""Every claim of the statement has a check, or a reason why it has none."""

from __future__ import annotations

from node.extensions.conformance.specimens import PATIENT_PREFIX, image, new_patient_id
from node.extensions.conformance.verification import CHECKS, check_of, claims_of
from node.settings.model import Settings


def test_no_claim_is_forgotten() -> None:
    claims = list(claims_of(Settings()))
    for claim in claims:
        check_of(claim)
    assert set(CHECKS) <= {claim.table for claim in claims}


def test_what_is_stored_is_seen_to_be_a_test() -> None:
    ds = image(new_patient_id())
    assert ds.QualityControlSubject == "YES"
    assert ds.PatientID.startswith(PATIENT_PREFIX)
