"""Syslog by datagrams and over TLS (RFC 5425), as a collector receives it."""

import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from node.api import Settings, UsageError
from node.audit.audit_log import SOURCE, Audit, AuditAction, AuditEvent, AuditMessage, EventType, Participant, Result
from node.extensions.syslog.collector import TlsSyslog, opened
from node.extensions.syslog.settings import AuditSettings
from node.runtime import logs
from tests.unit.audit.test_audit_log import lines, tell

SECONDS = 30


@pytest.fixture
def collector(keys: Path) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(SECONDS)
        yield listening


def accepted(collector: socket.socket, keys: Path, *, needs_certificate: bool = False) -> ssl.SSLSocket:
    """The next connection, after its handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "server.pem", keys / "server.key")
    if needs_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(keys / "ca.pem")
    plain, _ = collector.accept()
    plain.settimeout(SECONDS)
    return context.wrap_socket(plain, server_side=True)


def message(connection: ssl.SSLSocket) -> bytes:
    """The next message: its length, a space, and so many bytes."""
    length = b""
    while not length.endswith(b" "):
        length += connection.recv(1)
    data = b""
    while len(data) < int(length):
        data += connection.recv(int(length) - len(data))
    return data


def address(collector: socket.socket) -> str:
    return f"localhost:{collector.getsockname()[1]}"


def test_lines_of_the_audit_log_arrive_whole_and_in_order(tmp_path: Path, collector: socket.socket, keys: Path) -> None:
    settings = AuditSettings(
        syslog=f"tls://{address(collector)}",
        syslog_ca_file=keys / "ca.pem",
        syslog_certificate=keys / "server.pem",
        syslog_key=keys / "server.key",
    )
    audit = Audit(tmp_path, "VOXELNODE", copy=opened(Settings(audit=settings)))
    for detail in ("first", "Ä" * 100_000):
        audit.note(
            AuditMessage(AuditEvent.QUERY, AuditAction.EXECUTE, Result.SUCCESS, [Participant("a", "")], (), detail)
        )
    with accepted(collector, keys, needs_certificate=True) as connection:
        received = [message(connection) for _ in range(2)]
        audit.close()
        assert connection.recv(1) == b""
    for text, line in zip(received, (tmp_path / "audit.jsonl").read_bytes().splitlines(), strict=True):
        header, _, body = text.partition(b" audit - ")
        priority, at, _host, app, pid = header.split(b" ")
        assert (priority, app) == (b"<85>1", b"voxelnode")
        assert at.decode() in line.decode()
        assert pid.isdigit()
        assert body == line


def test_a_collector_that_comes_back_gets_what_waited(
    collector: socket.socket, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.extensions.syslog.collector.RETRY_SECONDS", (0.01, 0.05))
    syslog = TlsSyslog(address(collector), keys / "ca.pem")
    plain, _ = collector.accept() if syslog.send("one", "2026-01-01T00:00:00+00:00") is None else (None, None)
    plain.close()  # in the middle of the handshake
    with accepted(collector, keys) as connection:
        assert message(connection).endswith(b" one")
    syslog.send("two", "2026-01-01T00:00:00+00:00")  # into a connection that is closed
    with accepted(collector, keys) as connection:
        assert message(connection).endswith(b" two")
        syslog.close()


def test_a_collector_without_a_trusted_certificate_gets_nothing(
    collector: socket.socket, keys: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("node.extensions.syslog.collector.END_SECONDS", 0.2)
    syslog = TlsSyslog(address(collector))  # the authorities of the system
    syslog.send("Doe^Jane", "2026-01-01T00:00:00+00:00")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        accepted(collector, keys)
    syslog.close()
    assert not syslog._thread.is_alive()
    assert "Doe" not in "".join(capfd.readouterr())


def test_lines_beyond_the_room_are_left_to_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.extensions.syslog.collector.MAX_WAITING", 3)
    monkeypatch.setattr("node.extensions.syslog.collector.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("node.extensions.syslog.collector.END_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        syslog = TlsSyslog(address(silent))
        for number in range(10):
            syslog.send(str(number), "2026-01-01T00:00:00+00:00")
        assert syslog._dropped >= 6
    syslog.close()
    syslog._thread.join(10)
    assert not syslog._thread.is_alive()  # else it would log beside other tests


@pytest.mark.parametrize("wrong", ["", ":6514", "host:0", "host:x", "host:99999"])
def test_an_address_that_makes_no_sense_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"tls://HOST:PORT"):
        TlsSyslog(wrong)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="syslog_ca_file"):
        TlsSyslog("localhost", Path("/nothing.pem"))


@contextmanager
def by_datagrams(folder: Path, **options: Any) -> Iterator[tuple[Audit, socket.socket]]:
    """An audit log, and the collector of its lines."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(SECONDS)
        settings = AuditSettings(syslog=f"127.0.0.1:{collector.getsockname()[1]}", **options)
        with closing(Audit(folder, "VOXELNODE", copy=opened(Settings(audit=settings)))) as audit:
            yield audit, collector


def test_every_line_goes_to_syslog_too(tmp_path: Path) -> None:
    with by_datagrams(tmp_path) as (audit, collector):
        tell(audit, "to both")
        message = collector.recv(65536)
    assert message.startswith(b"<85>")  # facility 10, severity 5: PS3.15 A.6.1
    assert json.loads(message[4:].rstrip(b"\0")) == lines(tmp_path)[0]


LONG_NAME = "Doe^Jane" * 100_000  # apart from the call, whose line a traceback may show


def test_a_line_that_syslog_does_not_take_is_in_the_file_and_not_on_the_screen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with by_datagrams(tmp_path) as (audit, _):
        tell(audit, LONG_NAME)
    assert len(lines(tmp_path)) == 1
    assert "Doe" not in "".join(capfd.readouterr())


def test_a_syslog_socket_that_is_not_there_yet_costs_no_line(tmp_path: Path) -> None:
    audit = Audit(tmp_path, "VOXELNODE", copy=opened(Settings(audit=AuditSettings(syslog=str(tmp_path / "nothing")))))
    tell(audit)
    audit.close()
    assert len(lines(tmp_path)) == 1


@pytest.fixture(scope="module")
def schema() -> Any:
    """That of PS3.15 A.5.1."""
    return etree.RelaxNG(etree.parse(Path(__file__).parents[1] / "schemas/audit_message.rng"))


def test_messages_of_dicom_fit_the_schema(tmp_path: Path, collector: socket.socket, keys: Path, schema: Any) -> None:
    settings = AuditSettings(
        syslog=f"tls://{address(collector)}", syslog_ca_file=keys / "ca.pem", syslog_format="dicom"
    )
    audit = Audit(tmp_path, "VOXELNODE", copy=opened(Settings(audit=settings)))
    who = [
        Participant("CT1", SOURCE, "10.0.0.1", True, "CN=ct1"),
        Participant("anna", "", "pc.example"),
        Participant("x", "1"),
    ]
    objects = [{"study_instance_uid": "1.2", "patient_id": "P<1>", "instances": 3}, {"uid": "1.9", "\x01": None}, {}]
    for event in AuditEvent:
        for reported in ((who, objects, "Doe^Jane & <\x00\udcff>"), ([], (), "")):
            audit.note(AuditMessage(event, AuditAction.READ, Result.MINOR_FAILURE, *reported, type=EventType.LOGIN))
    with accepted(collector, keys) as connection:
        received = [message(connection) for _ in range(2 * len(AuditEvent))]
        audit.close()
    for text in received:
        header, _, body = text.partition(b" DICOM+RFC3881 - \xef\xbb\xbf")
        assert header.startswith(b"<85>1 ")
        parsed = etree.fromstring(body)
        assert schema.validate(parsed), schema.error_log
    parsed = etree.fromstring(received[0].partition(b"\xef\xbb\xbf")[2])
    assert [one.get("ParticipantObjectID") for one in parsed.findall("ParticipantObjectIdentification")] == [
        "1.2", "P<1>", "unknown",
    ]  # fmt: skip
    assert parsed.find("EventIdentification/EventTypeCode").get("csd-code") == "110122"
    assert [one.get("NetworkAccessPointTypeCode") for one in parsed.findall("ActiveParticipant")] == ["2", "1", None]


def test_messages_of_dicom_by_datagrams_are_those_of_rfc_5426(tmp_path: Path, schema: Any) -> None:
    with by_datagrams(tmp_path, syslog_format="dicom") as (audit, collector):
        tell(audit, "ordered")
        header, _, body = collector.recv(65536).partition(b" DICOM+RFC3881 - \xef\xbb\xbf")
    assert header.startswith(b"<85>1 ")
    assert schema.validate(etree.fromstring(body)), schema.error_log


# The log of a process that is killed.


NODE = Path(logs.__file__).parent


@pytest.mark.slow
def test_the_lines_of_a_killed_process_are_in_the_file_and_the_next_one_appends(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    program = f"""
import os, signal, structlog
from pathlib import Path
import pytest

from node.runtime import logs
logs.configure("info", "json")
logs.write_to_file(Path({str(file)!r}), 1_000_000, 3)
for number in range(100):
    structlog.get_logger().info("instance_kept", count=number)
os.kill(os.getpid(), signal.SIGKILL)
"""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program], cwd=NODE.parent, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL
    assert [json.loads(line)["count"] for line in file.read_text().splitlines()] == [*range(100)] * 2
