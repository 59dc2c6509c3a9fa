"""Checks of what the statement says of associations, queries and statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]  # what else pydicom offers does not list
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation

from node.dicom.keys import TIMEZONE, Level
from node.dicom.uids import STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE, VERIFICATION
from node.extensions.conformance.claims import HELD, Claim, Finding, NotChecked, Unchecked, held_if
from node.extensions.conformance.specimens import ANNEX_NAMES, image
from node.extensions.conformance.target import ACCEPTED, CT_IMAGE, USER_REJECTION, Target, query_of, storage_role

Check = Callable[[Target, Claim], Finding]

IMPLICIT = "1.2.840.10008.1.2"
PRIVATE_CLASS = "1.2.826.0.1.3680043.9.7433.1.1"
"""A SOP class that PS3.6 does not define."""

_TRANSFER_SYNTAXES = {name: uid for uid, (name, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"}


def pairs_of(claim: Claim) -> Iterator[tuple[str, str]]:
    """Yield the presentation contexts that a claim is about, so that few associations propose all."""
    if claim.table == "storage_classes":
        yield claim.row["SOP Class UID"], IMPLICIT
    elif claim.table == "transfer_syntaxes":
        yield CT_IMAGE, claim.row["Transfer Syntax UID"]
    elif claim.table == "dimse_services" and claim.row["SOP Class UID"]:
        yield claim.row["SOP Class UID"], IMPLICIT
    elif claim.table == "accepted_contexts":
        abstract = claim.row["UID"] or (PRIVATE_CLASS if "PS3.6" in claim.row["Abstract Syntax"] else CT_IMAGE)
        for syntax in _TRANSFER_SYNTAXES.values():
            yield abstract, syntax


def contexts(target: Target, claim: Claim) -> Finding:
    """All contexts of a storage class, or of a transfer syntax, are accepted."""
    results = target.negotiate(pairs_of(claim))
    refused = [pair for pair in pairs_of(claim) if results[pair] != ACCEPTED]
    _raise_if_not_allowed(target, [results[pair] for pair in refused])
    return held_if(not refused, f"{len(refused)} presentation contexts are refused")


def _raise_if_not_allowed(target: Target, results: list[int]) -> None:
    if USER_REJECTION in results:
        raise Unchecked(f"the node refuses {target.calling_ae_title} this service (user rejection)")


def services(target: Target, claim: Claim) -> Finding:
    """A SOP class is accepted if the node is its SCP, and refused if it is not."""
    is_served = claim.row["SCP"] == "Yes"
    if not claim.row["SOP Class UID"]:
        if is_served:
            return contexts(target, Claim("storage_classes", {"SOP Class UID": CT_IMAGE}))
        raise Unchecked("the row names no SOP class")
    [pair] = pairs_of(claim)
    result = target.negotiate([pair])[pair]
    if is_served:
        _raise_if_not_allowed(target, [result])
    return held_if((result == ACCEPTED) is is_served, f"the presentation context has the result {result}")


def accepted_contexts(target: Target, claim: Claim) -> Finding:
    """Exactly the listed transfer syntaxes are accepted."""
    results = target.negotiate(pairs_of(claim))
    accepted = {syntax for _, syntax in pairs_of(claim) if results[next(pairs_of(claim))[0], syntax] == ACCEPTED}
    if not accepted:
        _raise_if_not_allowed(target, [results[pair] for pair in pairs_of(claim)])
    told = claim.row["Transfer Syntaxes"]
    if told == "any":
        return held_if(bool(accepted), "no transfer syntax is accepted")
    if told.startswith("all "):
        return held_if(len(accepted) == int(told.split()[1]), f"{len(accepted)} transfer syntaxes are accepted")
    expected = {_TRANSFER_SYNTAXES[name] for name in told.split(", ")}
    return held_if(accepted == expected, f"{len(accepted)} transfer syntaxes are accepted: {', '.join(accepted)}")


def _is_told(told: Callable[[Target], object]) -> Check:
    def check(target: Target, claim: Claim) -> Finding:
        seen = told(target)
        return held_if(str(seen) == claim.row["Value"], f"the acceptance has {seen}")

    return check


def _has_no_window(target: Target, _: Claim) -> Finding:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 2
    assoc = target.associate([build_context(VERIFICATION)], [window])
    assoc.release()
    seen = assoc.acceptor.asynchronous_operations
    return held_if(seen == (1, 1), f"the window {seen} is accepted")


_LOAD = NotChecked("it would load the node, or keep it waiting")

ASSOCIATION: Mapping[str, Check | NotChecked] = {
    "Application Context Name": _is_told(lambda target: target.acceptor.primitive.application_context_name),
    "Implementation Class UID": _is_told(lambda target: target.acceptor.implementation_class_uid),
    "Implementation Version Name": _is_told(lambda target: target.acceptor.implementation_version_name),
    "Maximum Length Received, bytes": _is_told(lambda target: target.acceptor.maximum_length),
    "Maximum number of associations as acceptor": _LOAD,
    "Maximum number of associations as acceptor, from one address": _LOAD,
    "Asynchronous Operations Window": _has_no_window,
    "Maximum size of an A-ASSOCIATE-RQ, bytes": _LOAD,
    "Maximum size of the data set of a C-STORE request, bytes": _LOAD,
    "Timeout for a complete A-ASSOCIATE-RQ, s": _LOAD,
    "Timeout for a complete PDU, s": _LOAD,
    "Timeout without a PDU until an association is aborted, s": _LOAD,
    "Network": NotChecked("it depends on the address that the configuration names"),
}

OTHER_VALUES = {
    "AS": "149Y", "CS": "NOSUCHVALUE", "DA": "18000101", "IS": "2147480000", "LO": "voxelnode no such value",
    "PN": "Nosuch^Value", "SH": "voxelnode-no", "TM": "031415", "UI": "2.25.1", "US": 65001,
}  # fmt: skip
"""Values by VR that hardly any entity has."""


def query_keys(target: Target, claim: Claim) -> Finding:
    """A key is returned; its value finds the entity, and another value does not."""
    level, keyword = Level[claim.row["Level"]], claim.row["Key"].removeprefix("> ")
    is_inner, matching = claim.row["Key"].startswith("> "), claim.row["Matching"]
    entity = target.entity(level)
    within = (entity.get("RequestAttributesSequence") or [Dataset()])[0] if is_inner else entity
    if keyword not in within:
        if is_inner:
            raise Unchecked("the entity has no Request Attributes Sequence")
        return Finding("broken", "it is not returned")
    if "returned only" in matching or keyword == TIMEZONE or claim.row["VR"] == "SQ":
        return HELD
    value = within[keyword].value
    one = str(value[0] if within[keyword].VM > 1 else "" if value is None else value)
    if not one:
        raise Unchecked("the entity has no value")
    expected = [(one, True), (str(OTHER_VALUES[claim.row["VR"]]), False)]
    if "wild card" in matching and len(one) > 1 and not set(one) & set("*?\\"):
        expected.append((f"{one[:1]}*", True))
    for sought, is_found in expected:
        answers, _ = target.find(_sought(target, level, keyword, sought, is_inner=is_inner))
        if bool(answers) is not is_found:
            return Finding("broken", f"{'the value' if is_found else 'another value'} finds {len(answers)} entities")
    return HELD


def _sought(target: Target, level: Level, keyword: str, value: str, *, is_inner: bool) -> Dataset:
    query = query_of(level, target.unique_keys(level))
    place = Dataset() if is_inner else query
    vr = dictionary_VR(keyword)
    place[keyword] = DataElement(
        tag_for_keyword(keyword) or 0, vr, int(value) if vr == "US" else value, validation_mode=IGNORE
    )
    if is_inner:
        query.RequestAttributesSequence = [place]
    return query


def character_sets(target: Target, claim: Claim) -> Finding:
    """A name of PS3.5 annexes H to K is returned as it is written there, and found by it."""
    term, raw, name = next(rest for section, *rest in ANNEX_NAMES if section == claim.row["PS3.5"])
    ds = image(f"{target.specimen.PatientID}-{claim.row['PS3.5']}", term=str(term), name=bytes(raw))  # type: ignore[arg-type]
    status = target.store(ds)
    if status != 0:
        return Finding("broken", f"the C-STORE is answered by 0x{status:04X}")
    query = query_of(Level.STUDY, {"StudyInstanceUID": str(ds.StudyInstanceUID)})
    query.PatientName = str(name)
    answers, _ = target.find(query)
    if not answers:
        return Finding("broken", "the name in UTF-8 does not find it")
    return held_if(str(answers[0].PatientName) == name, "another name is returned")


def _final(status: Dataset | None) -> int:
    if status is None or "Status" not in status:
        raise Unchecked("there was no answer in time")
    return int(status.Status)


def _asks(sop_class_uid: str, ask: Callable[[Association], Dataset | None]) -> Check:
    """Return a check of the status that a request is answered by."""

    def check(target: Target, claim: Claim) -> Finding:
        pair = (sop_class_uid, IMPLICIT)
        result = target.negotiate([pair])[pair]
        _raise_if_not_allowed(target, [result])
        assoc = target.associate([build_context(sop_class_uid, IMPLICIT)])
        try:
            seen = _final(ask(assoc))
        finally:
            if assoc.is_established:
                assoc.release()
        return held_if(seen == int(claim.row["Status"], 16), f"the status is 0x{seen:04X}")

    return check


def _query(**keys: str) -> Dataset:
    """Return an identifier at the level of studies, whose values need not be valid."""
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    for keyword, value in keys.items():
        tag = tag_for_keyword(keyword) or 0
        query.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=IGNORE))
    return query


def _find(**keys: str) -> Callable[[Association], Dataset | None]:
    return lambda assoc: [status for status, _ in assoc.send_c_find(_query(**keys), STUDY_ROOT_FIND)][-1]


def _get(**keys: str) -> Callable[[Association], Dataset | None]:
    return lambda assoc: [status for status, _ in assoc.send_c_get(_query(**keys), STUDY_ROOT_GET)][-1]


def _move(destination: str) -> Callable[[Association], Dataset | None]:
    query = _query(StudyInstanceUID="2.25.1")
    return lambda assoc: [status for status, _ in assoc.send_c_move(query, destination, STUDY_ROOT_MOVE)][-1]


def _pending(target: Target, claim: Claim) -> Finding:
    _, statuses = target.find(query_of(Level.STUDY, target.unique_keys(Level.STUDY)))
    return held_if(statuses[:1] == [int(claim.row["Status"], 16)], f"the statuses are {statuses}")


def _pending_without_keys(target: Target, claim: Claim) -> Finding:
    query = _query(**target.unique_keys(Level.STUDY))
    query.EncapsulatedDocument = None
    _, statuses = target.find(query)
    return held_if(statuses[:1] == [int(claim.row["Status"], 16)], f"the statuses are {statuses}")


def _retrieved(target: Target, claim: Claim) -> Finding:
    """Retrieve one instance by C-GET, and look whether its sub-operation is reported."""
    keys = target.unique_keys(Level.IMAGE)
    sop_class = str(target.entity(Level.IMAGE).SOPClassUID)
    if sop_class != CT_IMAGE:
        raise Unchecked("the instance is no CT image")
    contexts_ = [build_context(STUDY_ROOT_GET), build_context(CT_IMAGE)]
    assoc = target.associate(contexts_, [storage_role()])
    from pynetdicom import evt

    assoc.bind(evt.EVT_C_STORE, lambda event: 0x0000)
    query = _query(**keys)
    query.QueryRetrieveLevel = "IMAGE"
    try:
        seen = [_final(status) for status, _ in assoc.send_c_get(query, STUDY_ROOT_GET)]
    finally:
        if assoc.is_established:
            assoc.release()
    return held_if(int(claim.row["Status"], 16) in seen, f"the statuses are {seen}")


def _stored(target: Target, _: Claim) -> Finding:
    target.specimen  # noqa: B018  # raises if it is not stored
    return HELD


def _stored_without_uid(target: Target, claim: Claim) -> Finding:
    ds = image(str(target.specimen.PatientID))
    del ds.StudyInstanceUID
    seen = target.store(ds)
    return held_if(seen == int(claim.row["Status"], 16), f"the status is 0x{seen:04X}")


COMMITMENT, COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
PERFORMED_STEP, PERFORMED_STEP_RETRIEVE = "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.3.1.2.3.4"


def _action(action_type: int, instance_uid: str) -> Callable[[Association], Dataset | None]:
    ds = Dataset()
    ds.TransactionUID = "2.25.1"  # without references
    return lambda assoc: assoc.send_n_action(ds, action_type, COMMITMENT, instance_uid)[0]


def _create(assoc: Association) -> Dataset | None:
    ds = Dataset()
    ds.PerformedProcedureStepStatus = "IN PROGRESS"
    return assoc.send_n_create(ds, PERFORMED_STEP, "2.25.1")[0]


def _set(assoc: Association) -> Dataset | None:
    ds = Dataset()
    ds.PerformedProcedureStepStatus = "COMPLETED"
    return assoc.send_n_set(ds, PERFORMED_STEP, "2.25.1")[0]


def _get_step(assoc: Association) -> Dataset | None:
    return assoc.send_n_get([], PERFORMED_STEP_RETRIEVE, "2.25.1")[0]


_NOT_BUILT = NotChecked("the client of this check cannot build such a request")
_BAD_STATE = NotChecked("it needs a node without resources, with an error, or that stops")
_CHANCE = NotChecked("whether a C-CANCEL comes in time is chance")
_CHANGES = NotChecked("it would make a step or a commitment that nothing removes")
_ROLE = NotChecked("it is answered to peers that may not, and this one may")
_NEEDS_PEER = NotChecked("it is seen by a peer that waits for it")
_NEEDS_CONFLICT = NotChecked("it would leave a conflict for people to decide")

_RETRIEVE, _STEP = "C-MOVE, C-GET", "N-CREATE, N-SET"
_REPORT = "N-EVENT-REPORT, Failure Reason (0008,1197)"

STATUSES: Mapping[tuple[str, str], Check | NotChecked] = {
    ("C-ECHO", "0x0000"): _asks(VERIFICATION, lambda assoc: assoc.send_c_echo()),
    ("C-STORE", "0x0000"): _stored,
    ("C-STORE", "0xB000"): _NEEDS_CONFLICT,
    ("C-STORE", "0xA700"): _BAD_STATE,
    ("C-STORE", "0xA900"): _NOT_BUILT,
    ("C-STORE", "0xC000"): _stored_without_uid,
    ("C-STORE", "0x0122"): _NOT_BUILT,
    ("C-STORE", "0x0124"): _ROLE,
    ("C-FIND", "0xFF00"): _pending,
    ("C-FIND", "0xFF01"): _pending_without_keys,
    ("C-FIND", "0x0000"): _asks(STUDY_ROOT_FIND, _find(StudyInstanceUID="2.25.1")),
    ("C-FIND", "0xFE00"): _CHANCE,
    ("C-FIND", "0xA700"): _BAD_STATE,
    ("C-FIND", "0xA900"): _asks(STUDY_ROOT_FIND, _find(QueryRetrieveLevel="NOSUCHLEVEL")),
    ("C-FIND", "0xC000"): _asks(STUDY_ROOT_FIND, _find(StudyDate="no date")),
    ("C-FIND", "0x0122"): _NOT_BUILT,
    (_RETRIEVE, "0xFF00"): _retrieved,
    (_RETRIEVE, "0x0000"): _asks(STUDY_ROOT_GET, _get(StudyInstanceUID="2.25.1")),
    (_RETRIEVE, "0xB000"): _BAD_STATE,
    (_RETRIEVE, "0xA702"): _BAD_STATE,
    (_RETRIEVE, "0xFE00"): _CHANCE,
    (_RETRIEVE, "0xA701"): _BAD_STATE,
    (_RETRIEVE, "0xA700"): _BAD_STATE,
    (_RETRIEVE, "0xA900"): _asks(STUDY_ROOT_GET, _get(QueryRetrieveLevel="NOSUCHLEVEL")),
    (_RETRIEVE, "0xC000"): _NOT_BUILT,
    (_RETRIEVE, "0x0122"): _NOT_BUILT,
    ("C-MOVE", "0xA801"): _asks(STUDY_ROOT_MOVE, _move("VOXELNODE-NONE")),
    ("N-ACTION", "0x0000"): _CHANGES,
    ("N-ACTION", "0x0112"): _asks(COMMITMENT, _action(1, "2.25.1")),
    ("N-ACTION", "0x0123"): _asks(COMMITMENT, _action(2, COMMITMENT_INSTANCE)),
    ("N-ACTION", "0x0115"): _asks(COMMITMENT, _action(1, COMMITMENT_INSTANCE)),
    ("N-ACTION", "0x0122"): _NOT_BUILT,
    ("N-ACTION", "0xA700"): _BAD_STATE,
    (_STEP, "0x0000"): _CHANGES,
    (_STEP, "0x0106"): _CHANGES,
    (_STEP, "0x0120"): _asks(PERFORMED_STEP, _create),
    ("N-CREATE", "0x0111"): _CHANGES,
    ("N-SET", "0x0112"): _asks(PERFORMED_STEP, _set),
    (_STEP, "0x0110"): _CHANGES,
    (_STEP, "0x0122"): _NOT_BUILT,
    ("N-GET", "0x0000"): NotChecked("it needs a step"),
    ("N-GET", "0x0112"): _asks(PERFORMED_STEP_RETRIEVE, _get_step),
    ("N-GET", "0x0110"): _BAD_STATE,
    ("N-GET", "0x0122"): _NOT_BUILT,
    (_REPORT, "0x0112"): _NEEDS_PEER,
    (_REPORT, "0x0119"): _NEEDS_PEER,
    (_REPORT, "0x0110"): _NEEDS_PEER,
}
