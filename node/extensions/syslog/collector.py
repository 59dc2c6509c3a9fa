"""Syslog: over TLS (RFC 5425), messages of RFC 5424, each with its length, from a thread of its own; by UDP or socket.

The file of the audit log is the record; syslog is a copy. Lines wait in memory while the collector is away, and are
dropped, which the diagnostic log tells, beyond `MAX_WAITING`.
"""

import base64
import json
import logging
import logging.handlers
import os
import queue
import re
import socket
import ssl
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from xml.etree.ElementTree import Element, SubElement, tostring

import structlog

from node.api import AuditCopy, Settings, UsageError, client_context, plain_address
from node.extensions.syslog.settings import AuditSettings

log = structlog.get_logger()

SCHEME = "tls://"
PORT = 6514
"""Of syslog over TLS, RFC 5425 4.1."""

PRIORITY = 10 * 8 + 5
"""Facility 10 and severity 5 (normal but significant), PS3.15 A.6.1."""

MAX_WAITING = 10_000
CONNECT_SECONDS = 10.0
RETRY_SECONDS = (1.0, 60.0)
"""First and longest pause after a failure; each is twice as long as the one before."""

END_SECONDS = 3.0
"""Longest time in which waiting lines are sent when the node stops."""


class TlsSyslog:
    """Sends lines to one collector. Thread-safe.

    `address`: ``HOST`` or ``HOST:PORT``; an IPv6 address is in brackets. `ca_file`: PEM file of the authorities that
    may have signed the certificate of the collector; None: those of the system. `certificate`, `key`: PEM files of our
    own certificate, for collectors that require one. `is_dicom`: in the XML of PS3.15 A.5. Raises UsageError if the
    address or a file is unusable.
    """

    def __init__(
        self,
        address: str,
        ca_file: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        is_dicom: bool = False,
    ) -> None:
        self._is_dicom = is_dicom
        self._host, self._port = _host_and_port(address)
        try:
            self._context = client_context(ca_file, system_authorities=ca_file is None)
            if certificate is not None:
                self._context.load_cert_chain(certificate, key)
        except OSError as error:
            raise UsageError(f"[audit] syslog_ca_file, syslog_certificate or syslog_key: {error}") from error
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._ending = threading.Event()
        self._dropped = 0
        self._connection: ssl.SSLSocket | None = None
        self._thread = threading.Thread(target=self._run, name="syslog", daemon=True)
        self._thread.start()

    def send(self, line: str, at: str) -> None:
        """Send a line with its time, ISO 8601 with an offset; returns at once."""
        message = f"<{PRIORITY}>".encode() + _message(line, at, is_dicom=self._is_dicom)
        try:
            self._waiting.put_nowait(b"%d %s" % (len(message), message))  # RFC 5425 4.3
        except queue.Full:
            self._dropped += 1
            if self._dropped == 1:
                log.error("audit_syslog_failed", detail=f"{MAX_WAITING} lines wait: further ones are in the file only")

    def close(self) -> None:
        """Send the lines that wait, for at most `END_SECONDS`."""
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(END_SECONDS)
        self._ending.set()
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        pause = RETRY_SECONDS[0]
        while (frame := self._waiting.get()) is not None:
            while not self._ending.is_set():
                try:
                    self._sent(frame)
                except OSError as error:
                    self._disconnect()
                    log.error("audit_syslog_failed", error=type(error).__name__, reason=error.strerror or str(error))
                    self._ending.wait(pause)
                    pause = min(2 * pause, RETRY_SECONDS[1])
                else:
                    pause = RETRY_SECONDS[0]
                    break
            if self._ending.is_set():
                break
            if self._dropped and self._waiting.empty():
                log.warning("audit_syslog_resumed", count=self._dropped)
                self._dropped = 0
        self._disconnect()

    def _sent(self, frame: bytes) -> None:
        if self._connection is not None and _is_closed(self._connection):
            self._disconnect()
        if self._connection is None:
            plain = socket.create_connection((self._host, self._port), CONNECT_SECONDS)
            try:
                self._connection = self._context.wrap_socket(plain, server_hostname=self._host)
            except BaseException:
                plain.close()
                raise
        self._connection.sendall(frame)

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)
            self._connection.close()
            self._connection = None


def _message(line: str, at: str, *, is_dicom: bool) -> bytes:
    """Return a message of RFC 5424 without its priority."""
    message_id, text = (MESSAGE_ID, BYTE_ORDER_MARK + audit_message(line)) if is_dicom else ("audit", line)
    header = f"1 {at} {socket.gethostname() or '-'} voxelnode {os.getpid()} {message_id} - "
    return header.encode("ascii", "replace") + text.encode("utf-8", "backslashreplace")


def _is_closed(connection: ssl.SSLSocket) -> bool:
    """Return whether the collector has closed the connection; the next line would be lost in it."""
    connection.settimeout(0)
    try:
        return connection.recv(1024) == b""
    except (ssl.SSLWantReadError, BlockingIOError):
        return False
    finally:
        connection.settimeout(CONNECT_SECONDS)


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(PORT)
    if not host.strip("[]") or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
        raise UsageError(f"[audit] syslog = {SCHEME + address!r} must be {SCHEME}HOST:PORT")
    return host.strip("[]"), int(port)


class _Syslog(logging.handlers.SysLogHandler):
    """Sends with facility 10 and severity 5 (normal but significant), PS3.15 A.6.1."""

    priority_map: ClassVar[dict[str, str]] = {"INFO": "notice"}
    is_dicom = False

    def send(self, line: str, at: str) -> None:
        """Send a line; `at` is in the line, too. In the format of DICOM, it is a message of RFC 5424 (RFC 5426)."""
        self.append_nul = self.append_nul and not self.is_dicom
        text = _message(line, at, is_dicom=True).decode() if self.is_dicom else line
        self.handle(logging.makeLogRecord({"msg": text, "levelname": "INFO"}))

    def handleError(self, record: logging.LogRecord) -> None:  # the default prints the line, which names patients
        log.error("audit_syslog_failed", error=type(sys.exc_info()[1]).__name__)


def opened(settings: Settings) -> AuditCopy:
    """Open `[audit] syslog`, which is not empty."""
    audit = settings.table(AuditSettings)
    address, is_dicom = audit.syslog or "", audit.syslog_format == "dicom"
    if address.startswith(SCHEME):
        files = (audit.syslog_ca_file, audit.syslog_certificate, audit.syslog_key)
        return TlsSyslog(address.removeprefix(SCHEME), *files, is_dicom=is_dicom)
    host, colon, port = address.rpartition(":")
    try:
        syslog = _Syslog((host, int(port)) if colon and port.isdecimal() else address, _Syslog.LOG_AUTHPRIV)
    except OSError as error:
        raise UsageError(f"[audit] syslog = {address!r} cannot be used: {error.strerror or error}") from error
    syslog.is_dicom = is_dicom
    return syslog


MESSAGE_ID = "DICOM+RFC3881"
"""MSGID of such messages in syslog, PS3.15 A.6.1."""

BYTE_ORDER_MARK = "\ufeff"

ROLES = {
    "110150": "Application", "110151": "Application Launcher", "110152": "Destination Role ID",
    "110153": "Source Role ID", "110154": "Destination Media", "110155": "Source Media",
}  # fmt: skip
"""PS3.16 context group 402."""

QUERY = "110112"
APPLICATION_SERVER = "4"
MACHINE_NAME, IP_ADDRESS = "1", "2"
PERSON, SYSTEM_OBJECT = "1", "2"
PATIENT, REPORT, QUERY_ROLE = "1", "3", "24"

_RFC_3881 = "RFC-3881"
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def audit_message(line: str) -> str:
    """Return the message of a line of the audit log, in the schema of PS3.15 A.5.1."""
    entry = json.loads(line)
    message = Element("AuditMessage")
    event = SubElement(
        message, "EventIdentification",
        EventActionCode=entry["action"], EventDateTime=entry["at"], EventOutcomeIndicator=str(entry["outcome"]),
    )  # fmt: skip
    _coded(event, "EventID", entry["event"]["code"], entry["event"]["scheme"], entry["event"]["meaning"])
    if kind := entry["event"].get("type"):
        _coded(event, "EventTypeCode", kind["code"], "DCM", kind["meaning"])
    if entry["detail"]:
        SubElement(event, "EventOutcomeDescription").text = _text(entry["detail"])
    source = entry["source"]
    for one in entry["participants"] or [{"user": source["ae_title"], "role": "110150", "requestor": False}]:
        _participant(message, one)
    identification = SubElement(
        message, "AuditSourceIdentification",
        AuditEnterpriseSiteID=_text(source["host"]), AuditSourceID=_text(source["ae_title"]),
    )  # fmt: skip
    SubElement(identification, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
    for item in entry["objects"]:
        _objects(message, item)
    if entry["event"]["code"] == QUERY:
        query = _object(message, "query", SYSTEM_OBJECT, QUERY_ROLE, ("10", _RFC_3881, "Search Criteria"))
        SubElement(query, "ParticipantObjectQuery").text = _base64(entry["detail"])
    return tostring(message, encoding="unicode", xml_declaration=False)


def _participant(message: Element, one: Mapping[str, Any]) -> None:
    values = {"UserID": _text(one["user"]), "UserIsRequestor": "true" if one["requestor"] else "false"}
    if one.get("certificate"):
        values["AlternativeUserID"] = _text(one["certificate"])
    if one.get("address"):
        values["NetworkAccessPointID"] = _text(one["address"])
        values["NetworkAccessPointTypeCode"] = IP_ADDRESS if _is_ip(one["address"]) else MACHINE_NAME
    participant = SubElement(message, "ActiveParticipant", values)
    if one["role"] in ROLES:
        _coded(participant, "RoleIDCode", one["role"], "DCM", ROLES[one["role"]])


def _objects(message: Element, item: Mapping[str, Any]) -> None:
    """Add the study and the patient of an object, with all else that the line says of it as details."""
    details = {name: value for name, value in item.items() if name not in ("study_instance_uid", "patient_id")}
    if study := item.get("study_instance_uid"):
        added = _object(message, study, SYSTEM_OBJECT, REPORT, ("110180", "DCM", "Study Instance UID"))
        SubElement(added, "ParticipantObjectName").text = _text(study)
        _details(added, details)
        details = {}
    if (patient := item.get("patient_id")) or details:
        added = _object(message, patient or "unknown", PERSON, PATIENT, ("2", _RFC_3881, "Patient Number"))
        SubElement(added, "ParticipantObjectName").text = _text(patient or "unknown")
        _details(added, details)


def _object(message: Element, identifier: str, kind: str, role: str, code: tuple[str, str, str]) -> Element:
    values = {
        "ParticipantObjectID": _text(identifier),
        "ParticipantObjectTypeCode": kind,
        "ParticipantObjectTypeCodeRole": role,
    }
    added = SubElement(message, "ParticipantObjectIdentification", values)
    _coded(added, "ParticipantObjectIDTypeCode", *code)
    return added


def _details(added: Element, details: Mapping[str, Any]) -> None:
    for name, value in details.items():
        text = value if isinstance(value, str) else json.dumps(value)
        SubElement(added, "ParticipantObjectDetail", type=_text(name), value=_base64(text))


def _coded(parent: Element, name: str, code: str, scheme: str, meaning: str) -> None:
    SubElement(
        parent, name, {"csd-code": code, "codeSystemName": scheme, "displayName": meaning, "originalText": meaning}
    )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "backslashreplace")).decode()


def _text(value: object) -> str:
    """Return a text without characters that XML cannot have."""
    return _NOT_XML.sub("\ufffd", str(value))


def _is_ip(address: str) -> bool:
    try:
        plain_address(address)
    except ValueError:
        return False
    return True
