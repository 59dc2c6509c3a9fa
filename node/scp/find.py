"""C-FIND as a service user: how many instances of a series does its sender have? (PS3.4 C.4.1)"""

from __future__ import annotations

from pydicom import Dataset
from pynetdicom import build_context

from node.dicom.status import SUCCESS
from node.errors import VoxelnodeError
from node.scp.requestor import association

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_PENDING = (0xFF00, 0xFF01)


class NotFound(VoxelnodeError):
    """The peer took the association but gave no answer that can be used; the message says why."""


def find_instance_count(
    host: str,
    port: int,
    calling_ae_title: str,
    called_ae_title: str,
    study_instance_uid: str,
    series_instance_uid: str,
    timeout: float,
) -> int | None:
    """Return *Number of Series Related Instances* (0020,1209) of a series as the peer tells it; None if it does not.

    Parameters
    ----------
    timeout : float, seconds
        Longest wait for the connection, its acceptance and each response.

    Raises
    ------
    NoAssociation
        Nobody answers at the address, or the answer is no.
    NotFound
        The query failed, or there is not just one such series.

    Notes
    -----
    A hierarchical query at the level of series in the Study Root model (PS3.4 C.6.2.1). The count is an optional key:
    PS3.4 C.3.4.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID = study_instance_uid, series_instance_uid
    query.NumberOfSeriesRelatedInstances = None
    found: list[Dataset] = []
    contexts = [build_context(STUDY_ROOT_FIND)]
    with association(host, port, calling_ae_title, called_ae_title, contexts, timeout) as assoc:
        for response, identifier in assoc.send_c_find(query, STUDY_ROOT_FIND):
            if "Status" not in response:
                raise NotFound(f"{called_ae_title} did not answer C-FIND within {timeout:g} s")
            if response.Status in _PENDING and identifier is not None:
                found.append(identifier)
            elif response.Status != SUCCESS:
                raise NotFound(f"{called_ae_title} answered C-FIND with 0x{response.Status:04X}")
    same = [one for one in found if one.get("SeriesInstanceUID") == series_instance_uid]
    if len(same) != 1:
        raise NotFound(f"{called_ae_title} knows {len(same)} series of this UID")
    return _count(same[0])


def _count(identifier: Dataset) -> int | None:
    try:
        count = int(identifier.NumberOfSeriesRelatedInstances)
    except (AttributeError, TypeError, ValueError):
        return None
    return count if count > 0 else None
