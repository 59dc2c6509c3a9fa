"""A hook whose receiver is a FHIR server: each quiet study becomes an `ImagingStudy` there, by an update.

The id of the resource is the Study Instance UID, so that a message that is delivered again, or a study that grew,
replaces what the server has (https://hl7.org/fhir/R5/http.html#update).
"""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

from node.errors import UsageError
from node.extensions.channels.http import HttpSender
from node.extensions.dicomweb.resources import PREFIX as DICOMWEB
from node.extensions.fhir.imaging_study import MEDIA_TYPE
from node.extensions.fhir.stored import stored_study
from node.index.database.index import Index
from node.index.search.finder import QueryRefused
from node.notify.channel import Delivered, NotDelivered
from node.notify.message import HookMessage
from node.notify.reach import reach_of
from node.retries import seconds_of_retry_after
from node.settings.model import Settings

REFUSED = frozenset({400, 410, 422})
"""Statuses of a server that would refuse the same resource again."""

REMEDIES = {
    401: "check the token in token_file",
    403: "check what the token in token_file may do",
    404: "check the address, and whether the server takes ImagingStudy",
    405: "the server must let clients choose ids (update as create)",
}

OUTCOME_CHARACTERS = 4000
MAX_UID = 64


class FhirChannel:
    """Sends each study to a FHIR server.

    Parameters
    ----------
    name : str
        The hook; its `fhir` is the address of the server.
    index : Index or None
        None: only for test messages.

    Raises
    ------
    UsageError
        `token_file` or `ca_file` cannot be used.
    """

    def __init__(self, settings: Settings, name: str, index: Index | None) -> None:
        hook = settings.hooks[name]
        self._url, self._token_file, self._index = (hook.fhir or "").rstrip("/"), hook.token_file, index
        self._token = hook.secret
        self._dicomweb = f"{settings.web.public_url}{DICOMWEB}" if settings.web.public_url else ""
        if self._token_file is not None:
            _token(self._token_file)
        self._sender = HttpSender(hook.timeout_seconds, hook.ca_file, reach_of(settings, name))

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> Delivered:
        """Put the study of a message; for a test message, only read what the server can do. See `Channel.deliver`."""
        study = message.content["study_instance_uid"]
        if message.content["test"] or self._index is None:
            self._send("GET", "/metadata", None, cancelled)
            return Delivered()
        if len(study) > MAX_UID or re.fullmatch(r"[0-9]+(\.[0-9]+)*", study) is None:
            raise NotDelivered("its Study Instance UID is none, and no id of a resource", is_final=True)
        try:
            stored = stored_study(self._index, study)
        except QueryRefused as error:
            raise NotDelivered(str(error)) from error
        if stored is None:
            raise NotDelivered("nothing of the study is stored any more", is_final=True)
        body = json.dumps(stored.resource(self._dicomweb), ensure_ascii=False).encode()
        self._send("PUT", f"/ImagingStudy/{study}", body, cancelled)
        return Delivered()

    def close(self) -> None:
        """Close the connection."""
        self._sender.close()

    def _send(self, method: str, path: str, body: bytes | None, cancelled: threading.Event) -> None:
        headers = {"accept": MEDIA_TYPE}
        if body is not None:
            headers["content-type"] = f"{MEDIA_TYPE}; charset=utf-8"
        try:
            token = self._token if self._token_file is None else _token(self._token_file)
        except UsageError as error:
            raise NotDelivered(str(error)) from error
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        status, answer = self._sender.send(method, self._url + path, headers, body, cancelled)
        if 200 <= status < 300:
            return
        remedy = f": {REMEDIES[status]}" if status in REMEDIES else ""
        raise NotDelivered(
            f"the FHIR server answered with status {status}{remedy}",
            retry_after=seconds_of_retry_after(answer.retry_after),
            is_final=status in REFUSED,
            output=bytes(answer.body).decode("utf-8", "replace")[:OUTCOME_CHARACTERS] or None,
        )


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"token_file {path} cannot be read: {error}") from error
    if not token.isprintable():
        raise UsageError(f"token_file {path} must contain one line")
    return token


def opened(settings: Settings, name: str, index: Index | None) -> FhirChannel:
    """Return the FHIR server of a hook. See `node.hookspecs.OpenChannel`."""
    return FhirChannel(settings, name, index)
