"""A webhook: post each message to a URL, signed as the Standard Webhooks specification requires.

https://www.standardwebhooks.com defines the headers ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``.
"""

from __future__ import annotations

import base64
import datetime as dt
import threading
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from node.errors import UsageError
from node.extensions.channels.http import HttpSender
from node.notify.channel import Delivered, NotDelivered
from node.notify.message import HookMessage
from node.reach import Reach, reach_of
from node.retries import seconds_of_retry_after
from node.settings.model import Settings

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

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> Delivered:
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
        return Delivered(is_pending=status == ACCEPTED, location=_location(self._url, answer.location))

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
    """Return the webhook of a hook. See `node.hookspecs.OpenChannel`."""
    hook = settings.hooks[name]
    secret = read_secret(hook.secret_file) if hook.secret_file is not None else None
    if hook.secret is not None:
        try:
            secret = secret_in(hook.secret)
        except ValueError:
            raise UsageError(f"the secret must be {_SECRET}: `openssl rand -base64 32` makes one") from None
    return Webhook(hook.url or "", hook.timeout_seconds, secret, hook.ca_file, reach_of(settings, f"hooks.{name}"))
