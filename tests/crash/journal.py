"""Senders that write down, and sync, what they were answered: what the node must be held to."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from node.api import Address
from tests import make
from tests.integration.conftest import data_set_bytes
from tests.protocol.conftest import Raw, associate_rq, pdu


@dataclass(frozen=True, slots=True)
class Sent:
    """One data set of one instance."""

    series_instance_uid: str
    sop_instance_uid: str
    data: bytes
    patient_id: str = ""
    study_instance_uid: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def altered(self, bits: int = 1) -> Sent:
        """The same instance with other bytes: these bits of its last pixel differ."""
        return replace(self, data=self.data[:-1] + bytes([self.data[-1] ^ bits]))


@dataclass(slots=True)
class Delivery:
    """One sending of one version; when it was answered is unknown (infinity) if the node died."""

    sha256: str
    began: float
    answered: float = math.inf


def new_series(slices: int, *, large: bool = False, patient_id: str = "TEST-1") -> list[Sent]:
    """A series that converts to one volume; large ones go to part files (see `tests.crash.small_journal`)."""
    size = {"rows": 60, "columns": 60} if large else {}
    return [
        Sent(
            str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID), data_set_bytes(ds), patient_id, str(ds.StudyInstanceUID)
        )
        for ds in make.ct_series(slices, PatientID=patient_id, **size)
    ]


class Journal:
    """What was sent and what was answered, in the order of the answers; safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self.sent: dict[tuple[str, str], Sent] = {}
        self.answered_at: dict[tuple[str, str], float] = {}  # by UID and digest: the first success, CLOCK_MONOTONIC
        self.deliveries: dict[str, list[Delivery]] = {}  # by UID
        self.statuses: list[int] = []

    def sending(self, one: Sent) -> Delivery:
        with self._lock:
            self.sent.setdefault((one.sop_instance_uid, one.sha256), one)
            delivery = Delivery(one.sha256, time.monotonic())
            self.deliveries.setdefault(one.sop_instance_uid, []).append(delivery)
        return delivery

    def answered(self, one: Sent, status: int, delivery: Delivery) -> None:
        with self._lock:
            at = time.monotonic()
            self._file.write(json.dumps([one.sop_instance_uid, one.sha256, status, at]) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self.statuses.append(status)
            if status == 0x0000:
                self.answered_at.setdefault((one.sop_instance_uid, one.sha256), at)
                delivery.answered = at

    def acknowledged(self, until: float = float("inf")) -> list[tuple[str, str]]:
        """(SOP Instance UID, SHA-256) of everything answered with success before a moment."""
        with self._lock:
            return [key for key, at in self.answered_at.items() if at < until]

    def close(self) -> None:
        self._file.close()


class Sender(threading.Thread):
    """Sends over one association, in order, until it is done or the node is gone."""

    def __init__(self, port: int, instances: Sequence[Sent], journal: Journal, title: str = "SENDER") -> None:
        super().__init__(name=title, daemon=True)
        self.instances = instances
        self._port, self._journal, self._title = port, journal, title
        self.answered = self._taken = 0
        self.broken = False  # the node went away before the end
        self.released = False  # the node answered the release, after it acknowledged every instance

    def run(self) -> None:
        try:
            with Raw(Address("VOXELNODE", "127.0.0.1", self._port)) as peer:
                peer.send(associate_rq(calling=self._title))
                accepted = peer.receive()
                if accepted is None or accepted[0] != 0x02:
                    return
                for number, one in enumerate(self.instances):
                    self._store(peer, one, number % 65535 + 1)
                peer.send(pdu(0x05, bytes(4)))  # A-RELEASE-RQ
                answer = peer.receive()
                self.released = answer is not None and answer[0] == 0x06 and self._taken == len(self.instances)
        except OSError:  # the node was killed
            self.broken = True

    def whole(self, slices: int) -> set[str]:
        """The series of which it was to send so many instances: all."""
        uids = {(one.series_instance_uid, one.sop_instance_uid) for one in self.instances}
        return {series for series, count in Counter(series for series, _ in uids).items() if count == slices}

    def _store(self, peer: Raw, one: Sent, message_id: int) -> None:
        delivery = self._journal.sending(one)
        status = peer.store(one.sop_instance_uid, one.data, message_id)
        self._journal.answered(one, status, delivery)
        self.answered += 1
        self._taken += status == 0x0000
