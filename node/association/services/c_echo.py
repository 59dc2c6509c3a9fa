"""C-ECHO as a service provider (PS3.4 A, PS3.7 9.1.5)."""

from __future__ import annotations

from pynetdicom.events import Event

from node.dicom.status import SUCCESS


def handle_c_echo(event: Event) -> int:
    """Answer a verification request with success (``evt.EVT_C_ECHO``)."""
    return SUCCESS
