"""A webhook: post each message to a URL, signed as the Standard Webhooks specification requires.

https://www.standardwebhooks.com defines the headers ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx2
import standardwebhooks

from node.errors import UsageError
from node.index.database.index import Index
from node.index.database.work_loop import Interrupted
from node.notify.channel import Delivered, NotDelivered
from node.notify.message import HookMessage
from node.retries import seconds_of_retry_after
from node.settings.model import Settings
from node.tls import client_context
from node.version import __version__

SECRET_PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
BODY_BYTES = 65536
"""Bytes of a response that are read, so that the connection can be reused; the content is ignored."""

ACCEPTED = 202
"""Status of a receiver that works on the message, and reports later."""

MAX_LOCATION_CHARACTERS = 2000

_CHECK_SECONDS = 0.2


@dataclass(slots=True)
class _Answer:
    """The part of the response that has arrived."""

    status: int | None = None
    retry_after: str | None = None
    location: str | None = None


class Webhook:
    """Post messages to one URL, one at a time.

    Certificates are verified and redirects are not followed. An attempt takes at most `timeout_seconds`, however slowly
    the receiver answers.

    `secret`: signing key; None: messages are not signed. `ca_file`: certificate authorities in addition to those of the
    system; see `node.tls.client_context`. Raises UsageError if `ca_file` cannot be read or contains no certificate.
    """

    def __init__(self, url: str, timeout_seconds: float, secret: bytes | None, ca_file: Path | None = None) -> None:
        self._url, self._timeout_seconds, self._secret = url, timeout_seconds, secret
        try:
            self._context = client_context(ca_file)
        except OSError as error:  # SSLError too
            raise UsageError(f"ca_file {ca_file} cannot be used: {error.strerror or error}") from error
        self._runner: asyncio.Runner | None = None
        self._client: httpx2.AsyncClient | None = None

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> Delivered:
        """Post a message and wait for a 2xx response. See `Channel.deliver`."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        body, now = message.encoded(), dt.datetime.now(dt.UTC)
        headers = {
            "content-type": "application/json",
            "user-agent": f"voxelnode/{__version__}",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._secret is not None:
            headers["webhook-signature"] = signature(self._secret, message.id, now, body)
        return self._runner.run(self._deliver(body, headers, cancelled))

    def close(self) -> None:
        """Close the connection."""
        if self._runner is not None:
            if self._client is not None:
                self._runner.run(self._client.aclose())
            self._runner.close()
        self._runner = self._client = None

    async def _deliver(self, body: bytes, headers: dict[str, str], cancelled: threading.Event) -> Delivered:
        answer = _Answer()
        task = asyncio.ensure_future(self._post(body, headers, answer))
        deadline = time.monotonic() + self._timeout_seconds
        while not task.done() and not cancelled.is_set() and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait({task}, timeout=min(_CHECK_SECONDS, left))
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, httpx2.HTTPError):
                await task
        elif (error := task.exception()) is not None and answer.status is None:
            raise _not_delivered(error)
        if answer.status is None:
            if cancelled.is_set():
                raise Interrupted
            raise NotDelivered(f"no answer within {self._timeout_seconds:g} s")
        if not 200 <= answer.status < 300:
            raise NotDelivered(f"HTTP status {answer.status}", retry_after=seconds_of_retry_after(answer.retry_after))
        return Delivered(is_pending=answer.status == ACCEPTED, location=answer.location)

    async def _post(self, body: bytes, headers: dict[str, str], answer: _Answer) -> None:
        if self._client is None:
            # `_deliver` enforces the deadline of an attempt: the timeouts of the client restart with every byte.
            self._client = httpx2.AsyncClient(
                verify=self._context, follow_redirects=False, timeout=self._timeout_seconds
            )
        async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
            answer.status, answer.retry_after = response.status_code, response.headers.get("retry-after")
            answer.location = _location(self._url, response.headers.get("location"))
            count = 0
            async for chunk in response.aiter_raw():
                count += len(chunk)
                if count > BODY_BYTES:
                    return


def _location(url: str, location: str | None) -> str | None:
    """Return the address in a ``Location`` header, if it is one of HTTP that a page may show."""
    if location is None or len(location) > MAX_LOCATION_CHARACTERS:
        return None
    absolute = urljoin(url, location)
    return absolute if absolute.isascii() and urlsplit(absolute).scheme in ("http", "https") else None


def signature(secret: bytes, message_id: str, sent_at: dt.datetime, body: bytes) -> str:
    """Return the value of ``webhook-signature``; `sent_at` is in UTC."""
    return standardwebhooks.Webhook(secret).sign(message_id, sent_at, body.decode())


def read_secret(path: Path) -> bytes:
    """Return the secret from a file: ``whsec_`` followed by 24 to 64 bytes in base64.

    Raises UsageError if the file cannot be read or contains no valid secret.
    """
    remedy = f"create one with `(umask 077; echo {SECRET_PREFIX}$(openssl rand -base64 32) > {path})`"
    try:
        text = path.read_text(encoding="ascii").strip()
        secret = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except OSError as error:
        raise UsageError(f"secret_file {path} cannot be read: {error.strerror}; {remedy}") from error
    except (binascii.Error, UnicodeDecodeError):
        secret = b""
    if len(secret) not in SECRET_BYTES:
        raise UsageError(f"secret_file {path} must contain {SECRET_PREFIX} and 24 to 64 bytes in base64; {remedy}")
    return secret


def _not_delivered(error: BaseException) -> NotDelivered:
    """Return the reason why no response arrived; the messages of these errors name only machines, never patients."""
    if isinstance(error, httpx2.TimeoutException):
        return NotDelivered("no answer in time")
    if isinstance(error, httpx2.HTTPError | OSError):
        return NotDelivered(f"{type(error).__name__}: {error}")
    return NotDelivered(f"{type(error).__name__} while posting")


def opened(settings: Settings, name: str, index: Index | None) -> Webhook:
    """Return the webhook of a hook. See `node.hookspecs.OpenChannel`."""
    hook = settings.hooks[name]
    secret = read_secret(hook.secret_file) if hook.secret_file is not None else None
    return Webhook(hook.url or "", hook.timeout_seconds, secret, hook.ca_file)
