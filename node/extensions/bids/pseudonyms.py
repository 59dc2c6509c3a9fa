"""Pseudonyms in a data set, by a key of de-identification: labels of subjects and sessions, shifts of dates.

A subject has as its label what de-identification by the same key gives as Patient ID, in lower case.
"""

from __future__ import annotations

from node.extensions.deidentify.pseudonyms import PATIENT_CHARACTERS, Patient, PseudonymKey

KEY_FILE = "bids.key"
"""The key in a root, unless another one is named."""

BEFORE_DAYS = 150 * 365
"""Least shift of a date: until 2074, dates are then before 1925, by which BIDS knows them as shifted."""


class Pseudonyms:
    """Pseudonyms by one key."""

    def __init__(self, key: PseudonymKey) -> None:
        self._key = key

    def subject(self, identity: str) -> str:
        """Return the label of a patient, whose identity is that of `node.index.nouns.levels.identity_of`."""
        issuer, has_id, patient_id = identity.partition("\\")
        patient = Patient(issuer, patient_id) if has_id else Patient("study", identity.removeprefix("study "))
        return self._key.patient(patient).lower()

    def session(self, study_instance_uid: str) -> str:
        """Return the label of a study."""
        return self._key.text("study", PATIENT_CHARACTERS, study_instance_uid).lower()

    def mark(self, uid: str) -> str:
        """Return what a data set may keep to recognise an object by its UID."""
        return self._key.digest("mark", uid).hex()[:32]

    def shift_days(self, subject: str) -> int:
        """Return by how many days the dates of a subject, by its label, are set back."""
        return BEFORE_DAYS + self._key.days_earlier(Patient("subject", subject))
