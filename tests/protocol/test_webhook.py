"""Webhooks over real sockets: signatures, certificates, redirects, and servers that take their time."""

import base64
import datetime as dt
import hashlib
import hmac
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from node.api import HookMessage, Interrupted, NotDelivered, UsageError
from node.extensions.channels.webhook import Webhook, read_secret, signature
from tests.messages import sample
from tests.receivers import Answer, Receiver

SECRET = bytes(range(32))
NEVER = threading.Event()


def message() -> HookMessage:
    return sample("volume-written", "VOXELNODE", dt.datetime(2026, 1, 1, tzinfo=dt.UTC))


def deliver(webhook: Webhook, cancelled: threading.Event = NEVER) -> None:
    with closing(webhook):
        webhook.deliver(message(), cancelled)


@contextmanager
def raw_server(serve: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that does with each connection what `serve` does; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with connection, context.wrap_socket(connection, server_side=True) if context else connection as one:
                    serve(one)
            except OSError:
                continue

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def read_request(connection: socket.socket) -> bytes:
    """The whole request, which ends with the brace of the message."""
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
        part = connection.recv(65536)
        if not part:
            break
        data += part
    return data


def test_the_signature_is_that_of_the_standard() -> None:
    # The example of the specification of Standard Webhooks.
    secret = base64.b64decode("plJ3nmyCDGBKInavdOK15jsl")
    body = b'{"event_type":"ping","data":{"success":true}}'
    signed = signature(secret, "msg_loFOjxBNrRLzqYUf", dt.datetime.fromtimestamp(1731705121.9, dt.UTC), body)
    assert signed == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


def test_a_message_is_signed_over_id_time_and_body() -> None:
    with Receiver() as receiver:
        deliver(Webhook(receiver.url, 10, SECRET))
        [one] = receiver.received
    signed = f"{one.headers['webhook-id']}.{one.headers['webhook-timestamp']}.".encode() + one.body
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert one.headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(one.headers["webhook-timestamp"]) - time.time()) < 60
    assert one.content["id"] == one.headers["webhook-id"]
    assert one.headers["content-type"] == "application/json"


def test_the_verification_that_the_documents_show_believes_our_messages_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text(encoding="utf-8")
    block = text.partition("    import base64")[2].partition("\nAnswer first")[0]
    shown: dict[str, Any] = {}
    exec(dedent(f"    import base64{block}"), shown)
    with Receiver() as receiver:
        deliver(Webhook(receiver.url, 10, SECRET))
        [one] = receiver.received
    secret = f"whsec_{base64.b64encode(SECRET).decode()}"
    assert shown["is_genuine"](secret, one.headers, one.body)
    assert not shown["is_genuine"](secret, one.headers, one.body + b" ")
    assert not shown["is_genuine"](secret, {**one.headers, "webhook-id": "another"}, one.body)
    assert not shown["is_genuine"](secret, {**one.headers, "webhook-timestamp": "1731705121"}, one.body)


def test_messages_share_a_connection() -> None:
    with Receiver() as receiver, closing(Webhook(receiver.url, 10, None)) as webhook:
        peers = set()
        for _ in range(3):
            webhook.deliver(message(), NEVER)
        peers = {one.peer for one in receiver.received}
        assert "webhook-signature" not in receiver.received[0].headers  # without a secret
        assert len(receiver.received) == 3
        assert len(peers) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 410, 500])
def test_any_other_status_than_2xx_is_a_failure_and_no_redirect_is_followed(status: int) -> None:
    with Receiver() as elsewhere:
        answer = Answer(status, (("location", elsewhere.url),))
        with Receiver(lambda received: answer) as receiver, pytest.raises(NotDelivered, match=f"HTTP status {status}"):
            deliver(Webhook(receiver.url, 10, None))
        assert len(receiver.received) == 1
        assert elsewhere.received == []


@contextmanager
def endless_server(head: bytes, piece: bytes, pause: float) -> Iterator[str]:
    """A server that begins its answer and never ends it; gives its URL."""
    stop = threading.Event()

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head)
        while not stop.wait(pause):
            connection.sendall(piece)

    with raw_server(answer) as address:
        try:
            yield f"http://{address}/"
        finally:
            stop.set()


def test_a_server_that_does_not_answer_or_byte_by_byte_is_left_after_the_timeout() -> None:
    answer = threading.Event()
    with (
        Receiver(lambda received: Answer(after=answer)) as silent,
        endless_server(b"HTTP/1.1 200 OK\r\nx-slow: ", b"a", 0.05) as slow,
    ):
        for url in (silent.url, slow):
            with pytest.raises(NotDelivered, match=r"no answer within 0\.5 s"):
                deliver(Webhook(url, 0.5, None))
        answer.set()


def test_the_status_counts_however_long_the_answer_is() -> None:
    head = b"HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n"
    with endless_server(head, b"400\r\n" + b"x" * 1024 + b"\r\n", 0) as url:
        deliver(Webhook(url, 10, None))


def test_a_stop_of_the_node_ends_an_attempt() -> None:
    answer, cancelled = threading.Event(), threading.Event()
    with Receiver(lambda received: Answer(after=answer)) as receiver:
        stopper = threading.Thread(target=lambda: (receiver.wait_for(1), cancelled.set()))
        stopper.start()
        with pytest.raises(Interrupted):
            deliver(Webhook(receiver.url, 60, None), cancelled)
        stopper.join()
        answer.set()


def test_nobody_listening_is_a_failure_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NotDelivered, match=rf"nothing listens on 127\.0\.0\.1 port {port} \(connection refused\)"):
        deliver(Webhook(f"http://127.0.0.1:{port}/", 10, None))


def served_by_tls(keys: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / f"{name}.pem", keys / f"{name}.key")
    return context


def accept_one(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("server", "authority"), [("server", "ca.pem"), ("server", None), ("stranger", "ca.pem"), ("expired", "ca.pem")]
)
def test_a_certificate_of_a_known_authority_is_believed_alone(keys: Path, server: str, authority: str | None) -> None:
    is_right = (server, authority) == ("server", "ca.pem")
    with raw_server(accept_one, served_by_tls(keys, server)) as address:
        webhook = Webhook(f"https://{address}/", 10, SECRET, keys / authority if authority else None)
        with nullcontext() if is_right else pytest.raises(NotDelivered, match="certificate"):
            deliver(webhook)


@pytest.mark.parametrize("content", ["", "whsec_", "whsec_c2hvcnQ=", "not base64!", "whsec_" + "A" * 400, "ä"])
def test_a_secret_that_is_none_is_refused_with_the_way_to_make_one(tmp_path: Path, content: str) -> None:
    path = tmp_path / "secret"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="openssl rand"):
        read_secret(path)


def test_a_secret_is_read_with_or_without_its_prefix(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for prefix in ("whsec_", ""):
        path.write_text(f"{prefix}{base64.b64encode(SECRET).decode()}\n")
        assert read_secret(path) == SECRET


def test_an_authority_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(UsageError, match="ca_file"):
            Webhook("https://127.0.0.1/", 10, None, tmp_path / name)
