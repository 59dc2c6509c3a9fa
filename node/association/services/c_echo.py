"""C-ECHO as a service provider (PS3.4 A, PS3.7 9.1.5)."""

from __future__ import annotations

from node.association.operation import Operation
from node.dicom.command import C_ECHO_RQ, Element
from node.dicom.status import SUCCESS
from node.dicom.uids import VERIFICATION


def serve_c_echo(operation: Operation) -> None:
    """Answer a verification request with success."""
    operation.respond(C_ECHO_RQ, SUCCESS, {Element.AFFECTED_SOP_CLASS_UID: VERIFICATION})
