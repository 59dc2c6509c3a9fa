"""C-ECHO as a service user: does a node answer? (PS3.4 A)"""

from __future__ import annotations

from time import perf_counter

from pynetdicom import build_context

from node.dicom.status import SUCCESS
from node.dicom.uids import VERIFICATION
from node.errors import VoxelnodeError
from node.scp.requestor import association


class NotVerified(VoxelnodeError):
    """The peer took the association but did not answer C-ECHO with success."""


def verify(host: str, port: int, calling_ae_title: str, called_ae_title: str, timeout: float) -> float:
    """Return how many seconds a whole verification took: connect, associate, C-ECHO.

    Raises
    ------
    NoAssociation
        Nobody answers at the address, or the answer is no.
    NotVerified
        C-ECHO was not answered in time, or not with success.
    """
    began = perf_counter()
    contexts = [build_context(VERIFICATION)]
    with association(host, port, calling_ae_title, called_ae_title, contexts, timeout) as assoc:
        response = assoc.send_c_echo()
        took = perf_counter() - began
    if "Status" not in response:
        raise NotVerified(f"{called_ae_title} at {host} port {port} did not answer C-ECHO within {timeout:g} s")
    if response.Status != SUCCESS:
        raise NotVerified(f"{called_ae_title} at {host} port {port} answered C-ECHO with 0x{response.Status:04X}")
    return took
