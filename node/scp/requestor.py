"""Our side as the one who asks for an association (PS3.8 7.1.1)."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE
from pynetdicom.presentation import PresentationContext

from node.errors import VoxelnodeError


class NoAssociation(VoxelnodeError):
    """The peer does not take up an association; the message says why, as far as it told."""


@contextmanager
def association(
    host: str,
    port: int,
    calling_ae_title: str,
    called_ae_title: str,
    contexts: Sequence[PresentationContext],
    timeout: float,
) -> Iterator[Any]:
    """Open an association and release it at the end.

    Parameters
    ----------
    timeout : float, seconds
        Longest wait for the connection, for its acceptance and for each response.

    Raises
    ------
    NoAssociation
        Nobody answers at the address, or the answer is no.
    """
    ae = AE(calling_ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout
    ae.requested_contexts = list(contexts)
    try:
        # Tells what is wrong with the way there; pynetdicom does not, and leaves a socket open.
        socket.create_connection((host, port), timeout).close()
    except OSError as error:
        raise NoAssociation(
            f"nothing answers at {host} port {port} ({error.strerror or error}): is it running there?"
        ) from error
    assoc: Any = ae.associate(host, port, ae_title=called_ae_title)
    if not assoc.is_established:
        raise NoAssociation(f"{called_ae_title} at {host} port {port}: {_why_not(assoc)}")
    # pynetdicom's own thread looks like paused for a moment when it is not: what it takes then, it must give back.
    assoc._serve_request = lambda message, context_id: assoc.dimse.msg_queue.put((context_id, message))
    try:
        yield assoc
    finally:
        assoc.release()


@contextmanager
def paused(assoc: Any) -> Iterator[None]:
    """Keep pynetdicom's own thread from taking the answer to a message that is sent here."""
    assoc._reactor_checkpoint.clear()
    try:
        while not assoc._is_paused and assoc.is_alive():
            time.sleep(0.0001)
        yield
    finally:
        assoc._reactor_checkpoint.set()


def _why_not(assoc: Any) -> str:
    answer = assoc.acceptor.primitive
    if assoc.is_rejected and answer is not None:
        return f"association {answer.result_str.lower()}, {answer.source_str}: {answer.reason_str.lower()}"
    if answer is not None:
        return "no presentation context was accepted"
    return "no answer to the request in time"
