"""C-FIND as a service user (PS3.4 C.4.1)."""

from collections.abc import Callable, Iterator
from time import monotonic

from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import C_CANCEL, C_FIND

from node.association.association import DimseMessage, primitive_of
from node.association.client.addresses import Address
from node.association.client.association import AssociationLost, RequestedAssociation, association, contexts_of
from node.dicom.attributes import is_identifier
from node.dicom.command import MEDIUM_PRIORITY
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.dicom.status import PENDING, PENDING_WITHOUT_KEYS, SUCCESS
from node.dicom.uids import STUDY_ROOT_FIND
from node.errors import PeerFailed
from node.index.rows.converted import SeriesKey

MAXIMUM_ANSWER_BYTES = 262_144
"""Longest identifier of an answer; those of real peers have a few hundred bytes."""

CANCEL_SECONDS = 5.0
"""Longest time for the end of a query that was cancelled; then the association is aborted."""

MAXIMUM_ANSWERS_OF_SERIES = 100
"""One is expected; some peers answer with every series of the study."""

MAXIMUM_INSTANCES = 100_000

MAXIMUM_COUNT = 2**31 - 1
"""Greatest value of an IS (PS3.5 6.2)."""


class FindFailed(PeerFailed):
    """The peer accepted the association, but the query failed; the message says why."""


def find(
    query: Dataset,
    peer: Address,
    calling_ae_title: str,
    timeout: float,
    maximum: int | None = None,
    sop_class_uid: str = STUDY_ROOT_FIND,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> Iterator[Dataset]:
    """Yield the answers to a query as they arrive.

    `query`: with *Query/Retrieve Level* (0008,0052).
    `timeout`: longest wait for the connection, its acceptance and each response.
    `maximum`: the query is cancelled after this number of answers.
    `is_abandoned`: called for each answer and during each wait for one; True ends the query.

    Raises NoAssociation: the address does not answer, or the peer rejects the association.
    Raises FindFailed: the query failed.
    """
    found = find_encoded(query, peer, calling_ae_title, timeout, maximum, is_abandoned, sop_class_uid)
    return (assoc.decoded(message) for assoc, message in found)


def find_encoded(
    query: Dataset,
    peer: Address,
    calling_ae_title: str,
    timeout: float,
    maximum: int | None = None,
    is_abandoned: Callable[[], bool] = lambda: False,
    sop_class_uid: str = STUDY_ROOT_FIND,
) -> Iterator[tuple[RequestedAssociation, DimseMessage]]:
    """Yield the answers to a query as they are encoded, with the association on which they came. See `find`."""
    contexts = contexts_of([(sop_class_uid, [EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN])])
    count = 0
    try:
        with association(peer, calling_ae_title, contexts, timeout, is_abandoned=is_abandoned) as assoc:
            assoc.maximum_data_set_bytes = MAXIMUM_ANSWER_BYTES
            message_id = assoc.next_message_id()
            request = primitive_of(
                C_FIND, MessageID=message_id, AffectedSOPClassUID=sop_class_uid, Priority=MEDIUM_PRIORITY
            )
            message = assoc.request(request, query)
            while message.command.status in (PENDING, PENDING_WITHOUT_KEYS):
                if is_abandoned():
                    raise AssociationLost("nobody waits for its answer any more")
                yield assoc, message
                count += 1
                if count == maximum:
                    assoc.send_message(message.context_id, primitive_of(C_CANCEL, MessageIDBeingRespondedTo=message_id))
                    _drain(assoc)
                    return
                message = assoc.receive()
    except AssociationLost as error:
        if count == maximum:
            return
        raise FindFailed(f"{peer} did not answer C-FIND: {error}") from error
    if message.command.status != SUCCESS:
        status = f"0x{message.command.status or 0:04X} {message.command.comment}".rstrip()
        raise FindFailed(f"{peer} answered C-FIND with {status}")


def _drain(assoc: RequestedAssociation) -> None:
    """Take what a peer still sends after a C-CANCEL, for `CANCEL_SECONDS` at most."""
    deadline = monotonic() + CANCEL_SECONDS
    is_abandoned = assoc.is_abandoned
    assoc.is_abandoned = lambda: monotonic() > deadline or is_abandoned()
    while assoc.receive().command.status in (PENDING, PENDING_WITHOUT_KEYS):
        if assoc.is_abandoned():
            raise AssociationLost("it goes on after the query was cancelled")


def find_instance_count(
    peer: Address,
    calling_ae_title: str,
    series: SeriesKey,
    timeout: float,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> int | None:
    """Return the peer's *Number of Series Related Instances* (0020,1209), or None if the peer does not give it.

    0 if it has no such series.

    `series`, (str, str): Study Instance UID and Series Instance UID.
    `timeout`: longest wait for the connection, its acceptance and each response.

    Raises NoAssociation: the address does not answer, or the peer rejects the association.
    Raises FindFailed: the query failed, or the peer has several such series.

    A hierarchical query at the SERIES level of the Study Root model (PS3.4 C.6.2.1). The count is an optional key
    (PS3.4 C.3.4).
    """
    query = of_series("SERIES", *series)
    query.NumberOfSeriesRelatedInstances = None
    answers = find(query, peer, calling_ae_title, timeout, MAXIMUM_ANSWERS_OF_SERIES, is_abandoned=is_abandoned)
    matching = [answer for answer in answers if answer.get("SeriesInstanceUID") == series[1]]
    if len(matching) > 1:
        raise FindFailed(f"{peer.ae_title} has {len(matching)} series of this UID")
    return _count(matching[0]) if matching else 0


def find_instances(
    peer: Address,
    calling_ae_title: str,
    series: SeriesKey,
    timeout: float,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> set[str]:
    """Return the SOP Instance UIDs that the peer lists of a series: a query at the IMAGE level. See above.

    Raises FindFailed also if there are more than `MAXIMUM_INSTANCES`.
    """
    query = of_series("IMAGE", *series)
    query.SOPInstanceUID = None
    answers = find(query, peer, calling_ae_title, timeout, MAXIMUM_INSTANCES + 1, is_abandoned=is_abandoned)
    uids = {str(answer.get("SOPInstanceUID")) for answer in answers}
    if len(uids) > MAXIMUM_INSTANCES:
        raise FindFailed(f"{peer.ae_title} lists more than {MAXIMUM_INSTANCES} instances")
    return {uid for uid in uids if is_identifier(uid)}


def of_series(level: str, study_instance_uid: str, series_instance_uid: str | None) -> Dataset:
    """Return the identifier of a query for a series, or with None for those of a study."""
    query = Dataset()
    query.QueryRetrieveLevel = level
    query.StudyInstanceUID, query.SeriesInstanceUID = study_instance_uid, series_instance_uid
    return query


def _count(identifier: Dataset) -> int | None:
    try:
        count = int(identifier.NumberOfSeriesRelatedInstances)
    except (AttributeError, TypeError, ValueError):
        return None
    return count if 0 < count <= MAXIMUM_COUNT else None
