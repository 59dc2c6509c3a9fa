"""A webhook: post each message to a URL, signed as the Standard Webhooks specification requires.

https://www.standardwebhooks.com defines the headers ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``.
"""

import asyncio
import base64
import datetime as dt
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx2

from node.api import (
    DeliveredMessage,
    HookMessage,
    Interrupted,
    NotDelivered,
    OutOfReach,
    Reach,
    Settings,
    UsageError,
    __version__,
    client_context,
    reach_of,
    seconds_of_retry_after,
)
from node.extensions.channels.settings import WebhookSettings

SECRET_PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
_SECRET = f"{SECRET_PREFIX} and 24 to 64 bytes in base64"
ACCEPTED = 202
"""Status of a receiver that works on the message, and reports later."""

MAX_LOCATION_CHARACTERS = 2000


class Webhook:
    """Post messages to one URL, one at a time, as an `HttpSender` does.

    `secret`: signing key; None: messages are not signed. Raises UsageError if `ca_file` cannot be used.
    """

    def __init__(
        self,
        url: str,
        timeout_seconds: float,
        secret: bytes | None,
        ca_file: Path | None = None,
        reach: Reach | None = None,
    ) -> None:
        self._url, self._secret = url, secret
        self._sender = HttpSender(timeout_seconds, ca_file, reach)

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> DeliveredMessage:
        """Post a message and wait for a 2xx response. See `Channel.deliver`."""
        body, now = message.encoded(), dt.datetime.now(dt.UTC)
        headers = {
            "content-type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._secret is not None:
            headers["webhook-signature"] = signature(self._secret, message.id, now, body)
        status, answer = self._sender.send(self._url, headers, body, cancelled)
        if not 200 <= status < 300:
            raise NotDelivered(f"HTTP status {status}", retry_after=seconds_of_retry_after(answer.retry_after))
        return DeliveredMessage(is_pending=status == ACCEPTED, location=_location(self._url, answer.location))

    def close(self) -> None:
        """Close the connection."""
        self._sender.close()


def _location(url: str, location: str | None) -> str | None:
    """Return the address in a ``Location`` header, if it is one of HTTP that a page may show."""
    if location is None or len(location) > MAX_LOCATION_CHARACTERS:
        return None
    absolute = urljoin(url, location)
    return absolute if absolute.isascii() and urlsplit(absolute).scheme in ("http", "https") else None


def signature(secret: bytes, message_id: str, sent_at: dt.datetime, body: bytes) -> str:
    """Return the value of ``webhook-signature``; `sent_at` is in UTC."""
    import standardwebhooks  # here: it comes with an extra

    return standardwebhooks.Webhook(secret).sign(message_id, sent_at, body.decode())


def read_secret(path: Path) -> bytes:
    """Return the secret from a file: ``whsec_`` followed by 24 to 64 bytes in base64.

    Raises UsageError if the file cannot be read or contains no valid secret.
    """
    remedy = f"create one with `(umask 077; echo {SECRET_PREFIX}$(openssl rand -base64 32) > {path})`"
    try:
        return secret_in(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise UsageError(f"secret_file {path} cannot be read: {error.strerror}; {remedy}") from error
    except ValueError:
        raise UsageError(f"secret_file {path} must contain {_SECRET}; {remedy}") from None


def secret_in(text: str) -> bytes:
    """Return the secret in a text. Raises ValueError."""
    secret = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    if len(secret) not in SECRET_BYTES:
        raise ValueError
    return secret


def opened(settings: Settings, name: str) -> Webhook:
    """Return the webhook of a hook. See `node.notify.channel.OpenChannel`."""
    hook = settings.hooks[name]
    assert isinstance(hook, WebhookSettings)
    secret = read_secret(hook.secret_file) if hook.secret_file is not None else None
    if hook.secret is not None:
        try:
            secret = secret_in(hook.secret)
        except ValueError:
            raise UsageError(f"the secret must be {_SECRET}: `openssl rand -base64 32` makes one") from None
    return Webhook(hook.url, hook.timeout_seconds, secret, hook.ca_file, reach_of(settings, f"hooks.{name}"))


BODY_BYTES = 65536
"""Bytes of a response that are read, so that the connection can be reused."""

DEFAULT_PORTS = {"http": 80, "https": 443}

_CHECK_SECONDS = 0.2


@dataclass(slots=True)
class WebhookResponse:
    """The part of the response that has arrived; `body` has at most `BODY_BYTES` and a chunk."""

    status: int | None = None
    retry_after: str | None = None
    location: str | None = None
    body: bytearray = field(default_factory=bytearray)


class HttpSender:
    """Post to one receiver, one at a time. Not thread-safe.

    Certificates are verified and redirects are not followed. An attempt takes at most `timeout_seconds`, however slowly
    the receiver answers. `ca_file`: certificate authorities in addition to those of the system; see
    `node.runtime.tls.client_context`. `reach`: which addresses it may connect to; None: all. Raises UsageError if
    `ca_file` cannot be read or contains no certificate.
    """

    def __init__(self, timeout_seconds: float, ca_file: Path | None, reach: Reach | None = None) -> None:
        self._timeout_seconds, self._reach = timeout_seconds, reach
        try:
            self._context = client_context(ca_file)
        except OSError as error:  # SSLError too
            raise UsageError(f"ca_file {ca_file} cannot be used: {error.strerror or error}") from error
        self._runner: asyncio.Runner | None = None
        self._client: httpx2.AsyncClient | None = None

    def send(
        self, url: str, headers: dict[str, str], body: bytes, cancelled: threading.Event
    ) -> tuple[int, WebhookResponse]:
        """Post a body; return the status and the answer, of which the end may be missing.

        Raises NotDelivered if there is no answer. Raises Interrupted if `cancelled` was set first.
        """
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(self._send(url, headers, body, cancelled))

    def close(self) -> None:
        """Close the connection."""
        if self._runner is not None:
            if self._client is not None:
                self._runner.run(self._client.aclose())
            self._runner.close()
        self._runner = self._client = None

    async def _send(
        self, url: str, headers: dict[str, str], body: bytes, cancelled: threading.Event
    ) -> tuple[int, WebhookResponse]:
        answer = WebhookResponse()
        task = asyncio.ensure_future(self._request(url, headers, body, answer))
        deadline = time.monotonic() + self._timeout_seconds
        while not task.done() and not cancelled.is_set() and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait({task}, timeout=min(_CHECK_SECONDS, left))
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, httpx2.HTTPError):
                await task
        elif (error := task.exception()) is not None and answer.status is None:
            raise _not_delivered(url, error)
        if answer.status is None:
            if cancelled.is_set():
                raise Interrupted
            raise NotDelivered(f"no answer within {self._timeout_seconds:g} s")
        return answer.status, answer

    async def _request(self, url: str, headers: dict[str, str], body: bytes, answer: WebhookResponse) -> None:
        if self._client is None:
            # `_send` enforces the deadline of an attempt: the timeouts of the client restart with every byte.
            self._client = httpx2.AsyncClient(
                verify=self._context, follow_redirects=False, timeout=self._timeout_seconds
            )
        sent = {"user-agent": f"voxelnode/{__version__}", "accept-encoding": "identity", **headers}  # read raw
        extensions = {"trace": self._reach.watch(httpx2.URL(url).raw_host.decode())} if self._reach is not None else {}
        async with self._client.stream("POST", url, content=body, headers=sent, extensions=extensions) as response:
            answer.status, answer.retry_after = response.status_code, response.headers.get("retry-after")
            answer.location = response.headers.get("location")
            async for chunk in response.aiter_raw():
                answer.body += chunk
                if len(answer.body) > BODY_BYTES:
                    return


def _not_delivered(url: str, error: BaseException) -> NotDelivered:
    """Return the reason why no response arrived; the messages of these errors name only machines, never patients."""
    if isinstance(error, NotDelivered):
        return error
    if isinstance(error, OutOfReach):
        return NotDelivered(str(error))
    if isinstance(error, httpx2.TimeoutException):
        return NotDelivered("no answer in time")
    if isinstance(error, httpx2.ConnectError):
        cause = _cause(error)
        if isinstance(cause, ConnectionRefusedError):
            address = urlsplit(url)
            place = f"{address.hostname} port {address.port or DEFAULT_PORTS.get(address.scheme)}"
            return NotDelivered(f"nothing listens on {place} (connection refused): check that the receiver is running")
        return NotDelivered(f"the receiver cannot be reached: {cause}")
    if isinstance(error, httpx2.HTTPError | OSError):
        return NotDelivered(f"{type(error).__name__}: {error}")
    return NotDelivered(f"{type(error).__name__} while sending")


def _cause(error: BaseException) -> BaseException:
    """Return what the system said, which the libraries between replace by words of their own."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
