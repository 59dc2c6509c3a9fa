"""A DICOMweb server as a destination: STOW-RS, many instances in one request (PS3.18 10.5)."""

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from time import monotonic
from typing import Any, BinaryIO, NamedTuple, Self
from urllib.parse import urlsplit

import httpx2

from node.api import (
    Confirmation,
    Delivered,
    DueInstance,
    NotConfirmable,
    NotTaken,
    Outgoing,
    OwedInstance,
    Prepared,
    Unreachable,
    UsageError,
    VoxelnodeError,
    __version__,
    client_context,
    is_loopback,
    resource_path,
    seconds_of_retry_after,
)
from node.extensions.destinations.settings import DicomwebSettings

MAX_INSTANCES, MAX_BYTES = 100, 64_000_000
"""Instances and bytes of one request, except that one instance may be larger."""

MAX_ANSWER_BYTES = 16_000_000
READ_BYTES = 1 << 18
MAX_FOUND = 100_000

OK, CONFLICT, NOT_IMPLEMENTED = 200, 409, 501
PROCESSING_FAILURE = 0x0110
"""Failure Reason of servers whose database or disk has failed: later attempts may succeed."""

HELD = frozenset({401, 403, 404, 405, 407, 408, 421, 429, 502, 503, 504, 507, 511, *range(300, 400)})
"""Statuses that say something of the server or of our access to it, not of an instance."""

_TAG = re.compile("[0-9A-Fa-f]{8}")
_EMPTY = (b"", b"{}", b"[]", b"[{}]")
_FAILED, _REFERENCED, _SOP_INSTANCE, _REASON = "00081198", "00081199", "00081155", "00081197"


class _Response(NamedTuple):
    """Status, media type and body of an answer."""

    status: int
    media_type: str
    content: bytes


class _Broken(VoxelnodeError):
    """A connection was lost before the answer came: whether anything arrived is unknown."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server said of the instances of a request (PS3.18 10.5.3): its status, those that failed, those it stored.

    `status` is None if the connection was lost, for the reason `lost`. `is_strange`: it is no answer of this service,
    such as the login page of a proxy.
    """

    status: int | None
    lost: str = ""
    failed: Mapping[str, int] = field(default_factory=dict)
    stored: frozenset[str] = frozenset()
    is_strange: bool = False

    @classmethod
    def of(cls, response: _Response) -> Self:
        answer = next(iter(_items(response.content)), {})
        failed = {_first(item, _SOP_INSTANCE): _first(item, _REASON) for item in _sequence(answer, _FAILED)}
        stored = frozenset(str(_first(item, _SOP_INSTANCE)) for item in _sequence(answer, _REFERENCED))
        numbers = {str(uid): reason if isinstance(reason, int) else 0 for uid, reason in failed.items()}
        is_data_set = all(_TAG.fullmatch(name) for name in answer) and (answer or response.content.strip() in _EMPTY)
        is_strange = not is_data_set and "dicom+xml" not in response.media_type
        return cls(response.status, "", numbers, stored, is_strange)

    @property
    def is_about_all(self) -> bool:
        """Whether it names no instance, and therefore says nothing of single ones."""
        return self.status != OK and not self.failed and not self.stored

    @property
    def is_doubtful(self) -> bool:
        """Whether the server may be down rather than the instances to blame."""
        return self.is_about_all and (self.status is None or self.status >= 500)

    def problem(self, uid: str) -> NotTaken | None:
        if self.status is None:
            return NotTaken(self.lost)
        if uid in self.failed:
            number = self.failed[uid]
            is_final = not 0xA700 <= number < 0xA800 and number != PROCESSING_FAILURE
            reason = f"the server refused it with Failure Reason 0x{number:04X}: its log says why"
            return NotTaken(reason, is_final=is_final)
        if uid in self.stored or (self.status == OK and not self.stored and not self.is_strange):
            return None
        if self.status == OK and self.is_strange:
            return NotTaken("the answer is not one of STOW-RS: check the url, and whether a proxy wants a login")
        if self.status == OK:
            return NotTaken("the server says that it stored other instances: its log, or that of a proxy, says why")
        is_final = 400 <= self.status < 500 and self.status != CONFLICT
        return NotTaken(f"the server answered with status {self.status}: its log says why", is_final=is_final)


class WebDestination:
    """Sends to a DICOMweb server. See `node.routing.held.OpenReceiver`.

    Its token is read for each request, so that it can be renewed. Raises UsageError if a file cannot be read.
    """

    def __init__(self, its: DicomwebSettings, is_read_again: bool) -> None:
        self._url, self._token_file, self._timeout = its.url.rstrip("/"), its.token_file, its.timeout_seconds
        if its.token_file is not None:
            try:
                its.token_file.read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"token_file {its.token_file} cannot be read: {error}") from error
        try:
            self._context = client_context(its.ca_file)
        except OSError as error:
            raise UsageError(f"ca_file {its.ca_file} cannot be used: {error.strerror or error}") from error
        self._client: httpx2.Client | None = None

    def deliver(self, instances: Iterable[Prepared], is_abandoned: Callable[[], bool]) -> Iterator[Delivered]:
        """Store instances, of one study in each request. See `Destination.deliver`."""
        batch: list[Prepared] = []
        size = 0
        for prepared in instances:
            length = prepared.outgoing.offset + prepared.outgoing.bytes
            is_other = batch and batch[0].due.study_instance_uid != prepared.due.study_instance_uid
            if batch and (is_other or len(batch) >= MAX_INSTANCES or size + length > MAX_BYTES):
                yield from self._stored(batch, is_abandoned, set())
                batch, size = [], 0
            batch.append(prepared)
            size += length
        if batch:
            yield from self._stored(batch, is_abandoned, set())

    def confirm(
        self, owed: Sequence[OwedInstance], transaction_uid: str, is_abandoned: Callable[[], bool]
    ) -> Confirmation | None:
        """Search for the instances (QIDO-RS). See `Destination.confirm`."""
        found: set[str] = set()
        for (study, series), _ in groupby(owed, key=lambda one: (one.study_instance_uid, one.series_instance_uid)):
            found |= self._found(study, series)
        uids = {one.sop_instance_uid for one in owed}
        return Confirmation(frozenset(uids & found), {uid: "a search does not find it" for uid in uids - found})

    def is_origin(self, due: DueInstance) -> bool:
        """Return whether the instance came by STOW-RS from the host of the server."""
        address, host = (due.peer or "").rpartition(":")[0] or (due.peer or ""), urlsplit(self._url).hostname
        return due.source == "stow" and address.strip("[]") == host and not is_loopback(host or "")

    def rest(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
        self._client = None

    def _stored(
        self, batch: Sequence[Prepared], is_abandoned: Callable[[], bool], held_back: set[str]
    ) -> Iterator[Delivered]:
        """Store instances with one request; with more if its answer is about all, since one of them may be the reason.

        `held_back`: series of which an instance was not taken, so that the later ones wait.
        """
        with ExitStack() as opened:
            parts: list[tuple[Prepared, BinaryIO]] = []
            for prepared in batch:
                if prepared.due.series_instance_uid in held_back:
                    continue
                try:
                    parts.append((prepared, opened.enter_context(prepared.outgoing.path.open("rb", buffering=0))))
                except OSError as error:  # such as one that was deleted or replaced meanwhile
                    yield _noted(prepared, NotTaken(f"its file cannot be read now: {error.strerror}"), held_back)
            if not parts:
                return
            answer = self._answer(parts, is_abandoned)
        sent = [prepared for prepared, _ in parts]
        if answer.is_about_all and len(sent) > 1 and not is_abandoned():
            half = len(sent) // 2
            yield from self._stored(sent[:half], is_abandoned, held_back)
            yield from self._stored(sent[half:], is_abandoned, held_back)
            return
        for prepared in sent:
            yield _noted(prepared, answer.problem(prepared.outgoing.sop_instance_uid), held_back)

    def _answer(self, parts: Sequence[tuple[Prepared, BinaryIO]], is_abandoned: Callable[[], bool]) -> _Answer:
        """Return the answer to a request with instances and their open files."""
        boundary = uuid.uuid4().hex
        heads = [_head(boundary, prepared.outgoing) for prepared, _ in parts]
        sizes = (
            len(head) + one.outgoing.offset + one.outgoing.bytes + 2
            for head, (one, _) in zip(heads, parts, strict=True)
        )
        tail = f"--{boundary}--\r\n".encode()
        headers = {
            "content-type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "content-length": str(sum(sizes) + len(tail)),
            "accept": "application/dicom+json",
        }
        try:
            response = self._request("POST", "/studies", headers, _body(heads, parts, tail), is_abandoned)
            answer = _Answer.of(response)
        except _Broken as error:
            answer = _Answer(None, str(error))
        if answer.is_doubtful and not is_abandoned():
            self._require_answer()
        return answer

    def _require_answer(self) -> None:
        """Tell a server that hangs or is down from an instance at which it fails.

        Raises Unreachable if it does not answer a small search, or fails at that, too.
        """
        try:
            status = self._request("GET", "/studies?limit=1", {"accept": "application/dicom+json"}).status
        except _Broken as error:
            raise Unreachable(str(error)) from error
        if status >= 500 and status != NOT_IMPLEMENTED:
            raise Unreachable(f"{self._url} answers searches, too, with status {status}: its log says why")

    def _found(self, study: str, series: str) -> set[str]:
        path = f"{resource_path(study, series)}/instances"
        status, _, content = self._request("GET", f"{path}?limit={MAX_FOUND}", {"accept": "application/dicom+json"})
        if status == 204:
            return set()
        if status != OK:
            raise NotConfirmable(f"{self._url} answered a search with status {status}: set confirm = false")
        return {uid for item in _items(content) if (uid := _first(item, "00080018")) is not None}

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Iterator[bytes] | None = None,
        is_abandoned: Callable[[], bool] = lambda: False,
    ) -> _Response:
        """Return an answer.

        Raises Unreachable if there is no connection, or the answer says that the server takes nothing now. Raises
        _Broken if the connection was lost, or nobody waits for the answer any more.
        """
        if self._client is None:
            self._client = httpx2.Client(verify=self._context, follow_redirects=False, timeout=self._timeout)
        sent = {**headers, "user-agent": f"voxelnode/{__version__}", **self._authorization()}
        try:
            with self._client.stream(method, self._url + path, headers=sent, content=body) as response:
                content, deadline = bytearray(), monotonic() + self._timeout
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES or monotonic() > deadline or is_abandoned():
                        raise httpx2.ReadTimeout("its answer does not end")
                if response.status_code in HELD:
                    raise Unreachable(
                        f"{self._url} answered with status {response.status_code}{_remedy(response.status_code)}",
                        retry_after=seconds_of_retry_after(response.headers.get("retry-after")),
                    )
                return _Response(response.status_code, response.headers.get("content-type", ""), bytes(content))
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol) as error:
            self.rest()
            raise Unreachable(f"{self._url} does not answer: {error}") from error
        except httpx2.HTTPError as error:
            self.rest()
            raise _Broken(f"{self._url}: {type(error).__name__}: {error}") from error

    def _authorization(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            token = self._token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unreachable(f"token_file {self._token_file} cannot be read: {error}") from error
        return {"authorization": f"Bearer {token}"}


def _head(boundary: str, outgoing: Outgoing) -> bytes:
    kind = f'application/dicom; transfer-syntax="{outgoing.transfer_syntax_uid}"'
    return f"--{boundary}\r\ncontent-type: {kind}\r\n\r\n".encode("ascii", "replace")


def _body(heads: Sequence[bytes], parts: Sequence[tuple[Prepared, BinaryIO]], tail: bytes) -> Iterator[bytes]:
    for head, (prepared, file) in zip(heads, parts, strict=True):
        yield head
        left = prepared.outgoing.offset + prepared.outgoing.bytes
        while left > 0 and (chunk := file.read(min(READ_BYTES, left))):
            left -= len(chunk)
            yield chunk
        yield b"\r\n"
    yield tail


def _noted(prepared: Prepared, problem: NotTaken | None, held_back: set[str]) -> Delivered:
    if problem is not None and not problem.is_final and prepared.holds_back:
        held_back.add(prepared.due.series_instance_uid)
    return Delivered(prepared, problem)


def _items(content: bytes) -> list[dict[str, Any]]:
    try:
        found = json.loads(content) if content else []
    except ValueError:
        return []
    listed = found if isinstance(found, list) else [found]
    return [item for item in listed if isinstance(item, dict)]


def _values(item: Mapping[str, Any], tag: str) -> list[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _sequence(item: Mapping[str, Any], tag: str) -> list[dict[str, Any]]:
    return [value for value in _values(item, tag) if isinstance(value, dict)]


def _first(item: Mapping[str, Any], tag: str) -> Any:
    first = next(iter(_values(item, tag)), None)
    return first if isinstance(first, str | int) else None


def _remedy(status: int) -> str:
    if status in (401, 403):
        return ": check the token in token_file and what it may do"
    if 300 <= status < 400:
        return ", a redirect: set url to the address to which it leads"
    return ": check the url" if status in (404, 405) else ""
