"""A DICOMweb server as a destination: STOW-RS, many instances in one request (PS3.18 10.5)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from node import __version__
from node.association.client.send import Outgoing
from node.errors import UsageError
from node.index.routes import DueInstance, OwedInstance
from node.retries import seconds_of_retry_after
from node.routing.destination import (
    Confirmation,
    ConnectionBroken,
    Delivered,
    NotConfirmable,
    NotTaken,
    Prepared,
    Unreachable,
)
from node.settings.model import is_loopback
from node.tls import client_context

MAX_INSTANCES, MAX_BYTES = 100, 64_000_000
"""Instances and bytes of one request, except that one instance may be larger."""

MAX_ANSWER_BYTES = 16_000_000
READ_BYTES = 1 << 18
MAX_FOUND = 100_000

OK, CONFLICT = 200, 409
HELD = frozenset({401, 403, 404, 405, 407, 408, 429, 502, 503, 504, 507})
"""Statuses that say something of the server or of our access to it, not of an instance."""

_FAILED, _REFERENCED, _SOP_INSTANCE, _REASON = "00081198", "00081199", "00081155", "00081197"


class WebDestination:
    """Sends to a DICOMweb server.

    Parameters
    ----------
    url : str
        Address of the service, without a slash at its end.
    token_file : Path or None
        Holds a token for ``Authorization: Bearer``; read for each request, so that it can be renewed.
    ca_file : Path or None
        Certificate authorities in addition to those of the system.
    timeout : float, seconds
        Longest wait for each step of a request.

    Raises
    ------
    UsageError
        A file cannot be read.
    """

    def __init__(self, url: str, token_file: Path | None, ca_file: Path | None, timeout: float) -> None:
        self._url, self._token_file, self._timeout = url.rstrip("/"), token_file, timeout
        if token_file is not None:
            try:
                token_file.read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"token_file {token_file} cannot be read: {error}") from error
        try:
            self._context = client_context(ca_file)
        except OSError as error:
            raise UsageError(f"ca_file {ca_file} cannot be used: {error.strerror or error}") from error
        self._client: httpx2.Client | None = None

    def announce(self, instances: Iterable[Outgoing]) -> None:
        """Do nothing: a server takes what it takes."""

    def deliver(self, instances: Iterable[Prepared], is_abandoned: Callable[[], bool]) -> Iterator[Delivered]:
        """Store instances, of one study in each request. See `Destination.deliver`."""
        batch: list[Prepared] = []
        size = 0
        for prepared in instances:
            length = prepared.outgoing.offset + prepared.outgoing.bytes
            is_other = batch and batch[0].due.study_instance_uid != prepared.due.study_instance_uid
            if batch and (is_other or len(batch) >= MAX_INSTANCES or size + length > MAX_BYTES):
                yield from self._stored(batch)
                batch, size = [], 0
            batch.append(prepared)
            size += length
        if batch:
            yield from self._stored(batch)

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

    def _stored(self, batch: Sequence[Prepared]) -> Iterator[Delivered]:
        boundary = uuid.uuid4().hex
        heads = [_head(boundary, prepared.outgoing) for prepared in batch]
        sizes = (
            len(head) + one.outgoing.offset + one.outgoing.bytes + 2 for head, one in zip(heads, batch, strict=True)
        )
        tail = f"--{boundary}--\r\n".encode()
        headers = {
            "content-type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "content-length": str(sum(sizes) + len(tail)),
            "accept": "application/dicom+json",
        }
        answer = self._request("POST", "/studies", headers, _body(heads, batch, tail))
        status, content = answer
        if status == 413 and len(batch) > 1:
            for prepared in batch:
                yield from self._stored([prepared])
            return
        problems = _problems(status, content)
        for prepared in batch:
            yield Delivered(prepared, problems(prepared.outgoing.sop_instance_uid))

    def _found(self, study: str, series: str) -> set[str]:
        path = f"/studies/{quote(study)}/series/{quote(series)}/instances"
        status, content = self._request("GET", f"{path}?limit={MAX_FOUND}", {"accept": "application/dicom+json"}, None)
        if status == 204:
            return set()
        if status != OK:
            raise NotConfirmable(f"{self._url} answered a search with status {status}: set confirm = false")
        return {uid for item in _items(content) if (uid := _first(item, "00080018")) is not None}

    def _request(
        self, method: str, path: str, headers: Mapping[str, str], body: Iterator[bytes] | None
    ) -> tuple[int, bytes]:
        """Return status and body of an answer.

        Raises
        ------
        Unreachable
            There is no connection, or the answer says that the server takes nothing now.
        ConnectionBroken
        """
        if self._client is None:
            self._client = httpx2.Client(verify=self._context, follow_redirects=False, timeout=self._timeout)
        sent = {**headers, "user-agent": f"voxelnode/{__version__}", **self._authorization()}
        try:
            with self._client.stream(method, self._url + path, headers=sent, content=body) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        break
                if response.status_code in HELD:
                    raise Unreachable(
                        f"{self._url} answered with status {response.status_code}{_remedy(response.status_code)}",
                        retry_after=seconds_of_retry_after(response.headers.get("retry-after")),
                    )
                return response.status_code, bytes(content)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol) as error:
            self.rest()
            raise Unreachable(f"{self._url} does not answer: {error}") from error
        except httpx2.HTTPError as error:
            self.rest()
            raise ConnectionBroken(f"{self._url}: {type(error).__name__}: {error}") from error

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


def _body(heads: Sequence[bytes], batch: Sequence[Prepared], tail: bytes) -> Iterator[bytes]:
    for head, prepared in zip(heads, batch, strict=True):
        yield head
        left = prepared.outgoing.offset + prepared.outgoing.bytes
        with prepared.outgoing.path.open("rb", buffering=0) as file:
            while left > 0 and (chunk := file.read(min(READ_BYTES, left))):
                left -= len(chunk)
                yield chunk
        yield b"\r\n"
    yield tail


def _problems(status: int, content: bytes) -> Callable[[str], NotTaken | None]:
    """Return what tells the outcome of each instance from the answer to a request (PS3.18 10.5.3)."""
    answer = next(iter(_items(content)), {})
    failed = {_first(item, _SOP_INSTANCE): _first(item, _REASON) for item in _sequence(answer, _FAILED)}
    taken = {_first(item, _SOP_INSTANCE) for item in _sequence(answer, _REFERENCED)}

    def problem(uid: str) -> NotTaken | None:
        if uid in failed:
            reason = failed[uid]
            number = reason if isinstance(reason, int) else 0
            is_final = not 0xA700 <= number < 0xA800
            return NotTaken(
                f"the server refused it with Failure Reason 0x{number:04X}: its log says why", is_final=is_final
            )
        if status == OK or uid in taken:
            return None
        is_final = 400 <= status < 500 and status != CONFLICT
        return NotTaken(f"the server answered with status {status}: its log says why", is_final=is_final)

    return problem


def _items(content: bytes) -> list[dict[str, Any]]:
    try:
        found = json.loads(content) if content else []
    except ValueError:
        return []
    listed = found if isinstance(found, list) else [found]
    return [item for item in listed if isinstance(item, dict)]


def _sequence(item: Mapping[str, Any], tag: str) -> list[dict[str, Any]]:
    element = item.get(tag)
    values = element.get("Value", []) if isinstance(element, dict) else []
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _first(item: Mapping[str, Any], tag: str) -> Any:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    first = values[0] if isinstance(values, list) and values else None
    return first if isinstance(first, str | int) else None


def _remedy(status: int) -> str:
    if status in (401, 403):
        return ": check the token in token_file and what it may do"
    return ": check the url" if status in (404, 405) else ""
