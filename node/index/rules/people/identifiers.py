"""Who is meant by an issuer and a Patient ID: every arrival and every message asks here.

An issuer and a Patient ID name one patient. Persons, each with a row, tell people apart who share an ID, or whom files
spell in several ways. What somebody has decided of an ID, by a merge or a correction, holds for every person of it,
whatever the spelling; only one whose birth date and name are both of somebody else is a stranger. An issuer that is not
stated may be any.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, or_, select, update

from node.dicom.attributes import InstanceAttributes
from node.dicom.key_values import folded_groups
from node.errors import UsageError
from node.index.rows.models.levels import PatientRow, StudyRow

AGE_AND_SEX = ("patient_birth_date", "patient_sex")

HAS_GIVEN_ISSUER = and_(
    PatientRow.patient_id.is_not(None),
    PatientRow.identity != func.coalesce(PatientRow.issuer_of_patient_id, "") + "\\" + PatientRow.patient_id,
)
"""Whether a person has given the Patient ID of a patient another issuer than the files have."""

PERSONS = select(PatientRow).where(PatientRow.identity == bindparam("identity")).order_by(PatientRow.id)
"""Those whom an issuer and a Patient ID name: one, unless people share it."""

_OF_ID = select(PatientRow.__table__).where(PatientRow.patient_id == bindparam("id")).order_by(PatientRow.id)

NAMED = func.coalesce(StudyRow.named_patient_id, StudyRow.patient_id)
"""The person whom the files of a study name."""

IS_NAMED = (
    select(StudyRow.id)
    .where(
        or_(
            StudyRow.patient_id.in_((PatientRow.id, PatientRow.merged_into)) & (PatientRow.id == NAMED),
            StudyRow.corrected_patient_id.is_not(None)
            & or_(StudyRow.named_patient_id == PatientRow.id, StudyRow.corrected_patient_id == PatientRow.id),
        )
    )
    .exists()
)
"""Whether the files of a study name a person, or a study by itself was corrected to one."""


def patient_identity(attributes: InstanceAttributes) -> str:
    """Return the identity of a patient: issuer and ID. Without an ID it is the study, so that strangers never merge."""
    return identity_of(attributes.patient, attributes.study_instance_uid)


def identity_of(patient: Mapping[str, Any], study_instance_uid: str) -> str:
    """Return the identity of a patient by the columns of `node.dicom.attributes.PATIENT`; see `patient_identity`."""
    if not patient.get("patient_id"):
        return f"study {study_instance_uid}"
    return f"{patient.get('issuer_of_patient_id') or ''}\\{patient['patient_id']}"


def people_with(connection: Connection, patient_id: str | None, issuer: str | None, *which: Any) -> list[Any]:
    """Return the rows of all persons with a Patient ID, but of no other issuer, for whom all conditions hold."""
    if not patient_id:
        return []
    rows, its = connection.execute(_OF_ID.where(*which), {"id": patient_id}), (None, "", issuer)
    return [row for row in rows if not issuer or row.issuer_of_patient_id in its]


def require_one_patient(rows: Iterable[Any]) -> None:
    """Raise UsageError if persons are of two issuers, or people who share a Patient ID, and no decision joins them."""
    groups: dict[int, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.merged_into or row.id, []).append(row)
    if not all(may_be_one(*pair) for pair in combinations(groups.values(), 2)):
        raise UsageError("people share this Patient ID: decide on the page Problems, Conflicts")


def may_be_one(ones: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return whether two groups of rows with one Patient ID can be those of one patient."""
    issuers = {row.issuer_of_patient_id for row in (*ones, *others)} - {None, ""}
    return len(issuers) < 2 and not are_strangers(ones, others)


def decided_patient(connection: Connection, person: Mapping[str, Any]) -> Any | None:
    """Return the row of the patient who a person is by a merge or a correction; None: as named, or a stranger.

    `person`: by the columns of `patients`.
    """
    rows = people_with(connection, person["patient_id"], person["issuer_of_patient_id"])
    identity = identity_of(person, "")
    known = same_person([row for row in rows if row.identity == identity], person)
    meant = rows if known is None else [known]
    ids = {row.merged_into or row.id for row in meant}
    if len(ids) != 1 or not any(row.merged_into for row in meant):
        return None
    remaining = connection.execute(select(PatientRow.__table__).where(PatientRow.id.in_(ids))).one()
    return None if known is None and are_strangers([*rows, remaining], [person]) else remaining


def known_person(connection: Connection, rows: Iterable[Any], new: Mapping[str, Any], identity: str) -> Any | None:
    """Return the row of the person with these attributes; None: there is none. `rows`: those of `PERSONS`.

    A merge can be decided before its first file is here: its row says no more than the message, and becomes that of the
    first person who comes with its Patient ID.
    """
    if (known := same_person(rows, new)) is not None:
        return known
    announced = people_with(connection, new["patient_id"], new["issuer_of_patient_id"], ~IS_NAMED)
    its = [one for one in announced if not contradict(one, new)]
    if len(its) != 1:
        return None
    named = {name: value for name, value in new.items() if value or name == "issuer_of_patient_id"}
    named |= {"identity": identity, **(name_groups(new["patient_name"]) if new["patient_name"] else {})}
    connection.execute(update(PatientRow).where(PatientRow.id == its[0].id).values(named))
    return its[0]


def same_person(known: Iterable[Any], new: Mapping[str, Any]) -> Any | None:
    """Return which of the people whom an issuer and a Patient ID name is the one of these attributes; None: another."""
    same = [row for row in known if can_be(row, new)]
    if len(same) != 1:  # a study that could be of two of them is of neither
        same = [row for row in same if all(getattr(row, name) == new[name] for name in AGE_AND_SEX)]
    return same[0] if same else None


def name_groups(name: object, column: str = "patient_name") -> dict[str, str | None]:
    """Return the columns beside that of a name, such as Patient's Name, that changes."""
    names = (f"{column}_{group}" for group in ("alphabetic", "ideographic", "phonetic"))
    return dict(zip(names, folded_groups(str(name) if name else None), strict=True))


def can_be(known: Any, new: Mapping[str, Any]) -> bool:
    """Return whether a row of `patients` and the attributes of a patient can be those of one person."""
    is_same_name = folded_name(known.patient_name) == folded_name(new["patient_name"])
    return is_same_name and not contradict(known, new)


def folded_name(name: object) -> str:
    """Return the first component group of a PN that is there (PS3.5 6.2.1), equal for different spellings of a name."""
    groups = (" ".join(group.replace("^", " ").casefold().split()) for group in str(name or "").split("="))
    return next(filter(None, groups), "")


def contradict(known: Any, new: Mapping[str, Any]) -> bool:
    """Return whether names, birth dates or sexes differ; a missing value is no contradiction."""
    pairs = [(getattr(known, name), new[name]) for name in AGE_AND_SEX]
    pairs.append((folded_name(known.patient_name), folded_name(new["patient_name"])))
    return any(mine and theirs and mine != theirs for mine, theirs in pairs)


def are_strangers(ones: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return whether some of two groups contradict each other in birth date and name, and none agree in either.

    A row or a mapping stands for a person. Accents, umlauts, punctuation and the order of names are spelling.
    """
    mine, theirs = ([_known_by(getattr(one, "_mapping", one)) for one in group] for group in (ones, others))
    pairs = [list(zip(*pair, strict=True)) for pair in product(mine, theirs)]
    agree = any(one and one == other for pair in pairs for one, other in pair)
    return not agree and any(all(one and other for one, other in pair) for pair in pairs)


def _known_by(person: Mapping[str, Any]) -> tuple[object, str]:
    name = unicodedata.normalize("NFKD", folded_name(person["patient_name"]))
    plain = re.sub("([aou])e", r"\1", "".join(one for one in name if not unicodedata.combining(one)))
    return person["patient_birth_date"], " ".join(sorted(re.findall(r"\w+", plain)))
