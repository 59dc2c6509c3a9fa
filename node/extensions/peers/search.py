"""Searches that a person makes at a peer: few answers, within a short time, and harmless whatever the peer sends.

Answers are read from their bytes, as received instances are: no value is longer than the index could hold it, and
none has control characters. A peer that is slow, dead or hostile takes the time of its own searches only.
"""

import datetime as dt
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any, Literal

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from node.association.added import OpenedRoot
from node.association.client.addresses import Address, address_of
from node.dicom.attributes import MAX_TEXT_BYTES, PATIENT, SERIES, STUDY, Attribute, is_identifier, read_attributes
from node.errors import NotUnderstood, PeerBusy, UsageError
from node.extensions.peers.find import FindFailed, find_encoded
from node.hookspecs import Action
from node.settings.model import Settings

Level = Literal["study", "series"]

MAX_ANSWERS = 500
"""Answers of a search; the peer is told to stop after them."""

MAX_SECONDS = 30.0
"""Longest time of a search."""

MAX_SEARCHES, MAX_SEARCHES_OF_PEER = 8, 2
"""Searches at once, each on one of the forty threads of HTTP; another is refused at once."""


def _columns(level: tuple[Attribute, ...], *names: str) -> tuple[Attribute, ...]:
    return tuple(attribute for attribute in level if attribute.column in names)


_RETURNED: Mapping[Level, tuple[Attribute, ...]] = {
    "study": (
        *_columns(PATIENT, "patient_name", "patient_id", "patient_birth_date", "patient_sex"),
        *_columns(STUDY, "study_instance_uid", "study_date", "study_time", "accession_number", "study_description"),
        Attribute(0x00080061, "modalities", "CS"),
        Attribute(0x00201206, "series", "IS"),
        Attribute(0x00201208, "instances", "IS"),
    ),
    "series": (
        *_columns(STUDY, "study_instance_uid"),
        *_columns(SERIES, "series_instance_uid", "modality", "series_number", "series_description"),
        Attribute(0x00201209, "instances", "IS"),
    ),
}
"""What a peer is asked for (PS3.4 C.6.2.1); the counts are optional keys."""

_UNIQUE_KEY: Mapping[Level, str] = {"study": "study_instance_uid", "series": "series_instance_uid"}


class PeerSearches:
    """Searches at the peers of a configuration. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()

    def find(self, peer: str, level: Level, keys: Mapping[str, str]) -> dict[str, Any]:
        """Search at a peer.

        `peer`: name in [peers].
        `keys`: matching keys: keyword -> value in the form of DICOM (PS3.4 C.2.2.2).
        """
        address = address_of(peer, self._settings)
        with self._turn(peer):
            dicom = self._settings.dicom
            return _found(query_of(level, keys), level, address, dicom.ae_title, dicom.response_seconds)

    @contextmanager
    def _turn(self, peer: str) -> Iterator[None]:
        with self._lock:
            if self._running[peer] >= MAX_SEARCHES_OF_PEER:
                raise PeerBusy(f"{peer} is asked {MAX_SEARCHES_OF_PEER} times already: try again in a few seconds")
            if self._running.total() >= MAX_SEARCHES:
                raise PeerBusy(f"{MAX_SEARCHES} searches at peers are under way: try again in a few seconds")
            self._running[peer] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[peer] -= 1


def query_of(level: Level, keys: Mapping[str, str]) -> Dataset:
    """Return the identifier of a query of the Study Root model: matching keys, and the attributes to be returned."""
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 192"
    query.QueryRetrieveLevel = level.upper()
    for attribute in _RETURNED[level]:
        setattr(query, keyword_for_tag(attribute.tag), None)
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def _found(
    query: Dataset, level: Level, peer: Address, calling_ae_title: str, response_seconds: float
) -> dict[str, Any]:
    """Return the `answers` by column, without repetitions and what identifies nothing; a `note` if some are missing."""
    deadline = monotonic() + MAX_SECONDS

    def is_late() -> bool:
        return monotonic() > deadline

    timeout = min(response_seconds, MAX_SECONDS)
    answers: dict[str, dict[str, Any]] = {}
    count = left_out = 0
    was_late = False
    try:
        for assoc, message in find_encoded(query, peer, calling_ae_title, timeout, MAX_ANSWERS + 1, is_late):
            count += 1
            syntax = assoc.accepted[message.context_id].transfer_syntax_uid
            answer = _read(message.data_set or b"", syntax, level) if count <= MAX_ANSWERS else None
            if answer is not None:
                answers.setdefault(answer[_UNIQUE_KEY[level]], answer)
            elif count <= MAX_ANSWERS:
                left_out += 1
    except FindFailed as error:
        if not is_late():
            raise
        if not answers:
            raise FindFailed(f"{peer} did not answer within {MAX_SECONDS:g} s") from error
        was_late = True
    return {"answers": [*answers.values()], "note": _note(count, left_out, was_late=was_late)}


def _note(count: int, left_out: int, *, was_late: bool) -> str:
    notes = []
    if count > MAX_ANSWERS:
        notes.append(f"The peer has more than {MAX_ANSWERS} answers; these are its first ones. Narrow the search.")
    if was_late:
        notes.append(f"The peer was not done within {MAX_SECONDS:g} s; these are its first answers. Narrow the search.")
    if left_out:
        notes.append(
            f"Answers without a valid UID, or with a text of more than {MAX_TEXT_BYTES} bytes; left out: {left_out}."
        )
    return " ".join(notes)


def _read(data: bytes, transfer_syntax_uid: str, level: Level) -> dict[str, Any] | None:
    """Return an answer as JSON values, or None if it identifies nothing."""
    try:
        answer: dict[str, Any] = dict(read_attributes(data, transfer_syntax_uid, _RETURNED[level]))
    except NotUnderstood:
        return None
    if not is_identifier(answer[_UNIQUE_KEY[level]]):
        return None
    for name in ("series", "instances"):
        number = answer.get(name)
        answer[name] = number if isinstance(number, int) and number >= 0 else None
    if level == "study":
        modalities = str(answer["modalities"] or "").split("\\")
        answer["modalities"] = [code.strip() for code in modalities if code.strip()]
    return {name: value.isoformat() if isinstance(value, dt.date) else value for name, value in answer.items()}


MAX_PEER = 64
"""Characters of the name or address of a peer in the list of retrievals."""


def actions_of(root: OpenedRoot) -> Mapping[str, Action]:
    """Return ``search-peer`` and ``retrieve`` on an opened root."""
    settings, index = root.settings, root.ingest.index

    def retrieve(peer: str, wanted: list[tuple[str, str | None]], who: str) -> Mapping[str, Any]:
        address_of(peer, settings)
        if len(peer) > MAX_PEER:
            raise UsageError(f"{peer[:32]}... has more than {MAX_PEER} characters: give it a name in [peers]")
        pairs = [(study_instance_uid, series_instance_uid) for study_instance_uid, series_instance_uid in wanted]
        return {"retrievals": index.work.add_retrievals(peer, pairs, who, index.now())}

    return {"search-peer": PeerSearches(settings).find, "retrieve": retrieve}
