"""Receive orders by HL7 v2 over MLLP (HL7 v2 Implementation Guide, Appendix C): one thread for each connection.

A message is acknowledged with AA after its entries are committed; one is worked on at a time. Every wait is bounded: a
message must be whole within `MESSAGE_SECONDS` of its first byte, and a connection that brings none is closed after
`IDLE_SECONDS`. A connection enters a place (`node.runtime.budget`) with its first whole message.
"""

import datetime as dt
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from time import monotonic

import structlog

from node.association.added import OpenedRoot as Root
from node.audit.audit_log import APPLICATION, SOURCE, Audit, AuditAction, AuditEvent, AuditMessage, Participant, Result
from node.dicom.attributes import MAX_TEXT_BYTES, date_of, is_short
from node.errors import OutOfResources, UsageError
from node.extensions.worklist import hl7
from node.extensions.worklist.modality_worklist import step_of
from node.extensions.worklist.scheduled_rows import OrderedStep, ScheduledStepRepository
from node.extensions.worklist.settings import WorklistSettings
from node.index.rows.records import Refused
from node.index.rules.people.person_plans import PatientLink, Person
from node.index.rules.people.persons import LEFT, PersonRepository
from node.lifecycle.erasure import holders
from node.runtime.background import SupervisedThread
from node.runtime.budget import Budget, Claim, Limits, Stage
from node.runtime.metrics import Metrics
from node.runtime.network import plain_address
from node.runtime.tls import failure_reason, server_context

log = structlog.get_logger()

BEGIN, END = b"\x0b", b"\x1c\x0d"
MAXIMUM_CONNECTIONS, PER_ADDRESS = 64, 16
"""Connections that have sent a message, of all addresses and of one. As many may be without a message."""

MAX_MESSAGE_BYTES = 256_000
BACKLOG = 128
MESSAGE_SECONDS = 30.0
HANDSHAKE_SECONDS = 10.0
IDLE_SECONDS = 600.0
TICK_SECONDS = 1.0
"""Longest wait before the deadlines are checked again."""


def hl7_tls_context(settings: WorklistSettings) -> ssl.SSLContext | None:
    """Return the TLS context that the configuration asks for, or None.

    Raises UsageError, which names the key, if a file cannot be used or there is no certificate.
    """
    if settings.hl7_tls_certificate is None:
        if settings.hl7_tls_key or settings.hl7_tls_client_ca:
            raise UsageError("[worklist] hl7_tls_key and hl7_tls_client_ca need hl7_tls_certificate")
        return None
    return server_context(
        "worklist", settings.hl7_tls_certificate, settings.hl7_tls_key, settings.hl7_tls_client_ca, prefix="hl7_"
    )


class _Peer:
    """A connection, and the messages that arrive on it."""

    def __init__(self, accepted: socket.socket, stopping: threading.Event) -> None:
        self._socket, self._stopping = accepted, stopping
        self._data = bytearray()
        self.is_served = False

    @property
    def is_under_way(self) -> bool:
        """Whether a message has begun and is incomplete."""
        return bool(self._data)

    def hang_up(self) -> None:
        """Wake the thread of the connection, which can neither read nor write from now on."""
        with suppress(OSError):  # closed already
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def secured(self, context: ssl.SSLContext | None) -> socket.socket:
        """Return the connection after the TLS handshake, if there is one; it is closed if that fails."""
        if context is not None:
            with self._socket as accepted:
                accepted.settimeout(HANDSHAKE_SECONDS)
                # Takes the file descriptor of `accepted`, before the handshake: `hang_up` needs it.
                self._socket = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
            try:
                self._socket.do_handshake()
            except OSError:
                self._socket.close()
                raise
        self._socket.settimeout(TICK_SECONDS)
        return self._socket

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Note that a message is being processed."""
        self.is_served = True
        try:
            yield
        finally:
            self.is_served = False

    def send(self, answer: bytes) -> None:
        """Send a message in its frame."""
        self._socket.settimeout(MESSAGE_SECONDS)
        self._socket.sendall(BEGIN + answer + END)
        self._socket.settimeout(TICK_SECONDS)

    def message(self) -> bytes | None:
        """Return the next message without its frame; None if the peer closes, is idle, or the node stops."""
        idle_until, begun_at = monotonic() + IDLE_SECONDS, monotonic() if self._data else None
        searched = 0
        while True:
            end = self._data.find(END, max(0, searched - 1))
            if end >= 0:
                framed = bytes(self._data[:end])
                del self._data[: end + len(END)]
                if not framed.startswith(BEGIN):
                    raise _TooMuch("a message must begin with the byte 0B (MLLP)")
                return framed[len(BEGIN) :]
            searched = len(self._data)
            if searched > MAX_MESSAGE_BYTES:
                raise _TooMuch(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
            if self._stopping.is_set() or (begun_at is None and monotonic() > idle_until):
                return None
            if begun_at is not None and monotonic() > begun_at + MESSAGE_SECONDS:
                raise _TooMuch(f"a message that takes more than {MESSAGE_SECONDS:g} s")
            try:
                chunk = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not chunk:
                return None
            begun_at = begun_at or monotonic()
            self._data += chunk


class MllpListener:
    """Accepts messages from the addresses of [worklist] hl7_networks; those about patients only with `patients`.

    Raises UsageError if TLS is not configured correctly or, when started, the address cannot be bound.
    """

    def __init__(
        self,
        settings: WorklistSettings,
        ae_title: str,
        steps: ScheduledStepRepository,
        metrics: Metrics,
        audit: Audit | None = None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        patients: Root | None = None,
        on_refusal: Callable[[Refused], None] = lambda refused: None,
    ) -> None:
        self._settings, self._ae_title, self._steps, self._audit, self._now = settings, ae_title, steps, audit, now
        self._patients, self._on_refusal = patients, on_refusal
        self._context = hl7_tls_context(settings)
        self._stopping, self._turn = threading.Event(), threading.Lock()
        limits = Limits(MAXIMUM_CONNECTIONS, PER_ADDRESS, MAXIMUM_CONNECTIONS, MAXIMUM_CONNECTIONS)
        self._budget = Budget("hl7", limits, metrics)
        self._socket: socket.socket | None = None
        self.thread = SupervisedThread("hl7", self._accept, self._stopping)

    def start(self) -> None:
        """Bind, accept, and log the port."""
        address = self._settings.hl7_host, self._settings.hl7_port or 0
        try:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            self._socket = socket.create_server(address, family=family, backlog=BACKLOG)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {address[0]} port {address[1]} for HL7: {error.strerror or error}; set [worklist] "
                "hl7_host and hl7_port to an address of this machine that is free"
            ) from error
        self._socket.settimeout(TICK_SECONDS)
        self.port = int(self._socket.getsockname()[1])
        self.thread.start()
        log.info("hl7_ready", port=self.port)

    def stop(self) -> None:
        """Accept nothing more; connections end within `TICK_SECONDS`, after the message that they process."""
        self._stopping.set()
        self.thread.join(2 * TICK_SECONDS)
        self._budget.wait_until_empty(2 * TICK_SECONDS)
        if self._socket is not None:
            self._socket.close()

    def _accept(self) -> None:
        assert self._socket is not None, "started before"
        while not self._stopping.is_set():
            try:
                accepted, (host, *_) = self._socket.accept()
            except TimeoutError:
                continue
            if not self._is_permitted(str(host)):
                reason = "the address is in no network of [worklist] hl7_networks"
                self._refuse("hl7_connection_refused", str(host), "network", reason, "add its network, or keep it away")
                accepted.close()
                continue
            peer = _Peer(accepted, self._stopping)
            claim = Claim(peer, str(host))
            self._budget.connect(claim)
            try:
                threading.Thread(target=self._serve, args=(peer, claim), name="hl7-peer", daemon=True).start()
            except RuntimeError:
                self._budget.remove(claim)
                accepted.close()

    def _is_permitted(self, host: str) -> bool:
        address, networks = plain_address(host), self._settings.hl7_networks
        return any(address in network for network in networks) if networks else address.is_loopback

    def _serve(self, peer: _Peer, claim: Claim) -> None:
        host = claim.address
        try:
            with peer.secured(self._context):
                while (data := peer.message()) is not None:
                    if claim.stage is Stage.PENDING and (rule := self._budget.enter(claim)) is not None:
                        raise _TooMuch(f"no place is free ({rule}): close connections that are idle")
                    with peer.serving(), self._turn:  # the index has one writer, for which images wait too
                        answer = self._answer(data, host)
                    peer.send(answer)
                    claim.worked()
        except ssl.SSLError as error:
            remedy = "compare its certificate and TLS with [worklist] hl7_tls_certificate and hl7_tls_client_ca"
            self._refuse("hl7_connection_lost", host, "TLS", failure_reason(error), remedy)
        except OSError as error:
            log.warning("hl7_connection_lost", address=host, reason=failure_reason(error))
        except _TooMuch as error:
            self._refuse("hl7_connection_closed", host, "MLLP", str(error), "look at how this sender frames messages")
        finally:
            self._budget.remove(claim)

    def _refuse(self, event: str, host: str, rule: str, reason: str, remedy: str) -> None:
        """Log that a connection ends, and list it."""
        log.warning(event, address=host, reason=reason)
        self._on_refusal(Refused("hl7", rule, reason, remedy, host))

    def _answer(self, data: bytes, host: str) -> bytes:
        message: hl7.Hl7Message | None = None
        verdict: hl7.Verdict = "AA"
        reason, error = "", 207
        orders: list[OrderedStep] = []
        patients: list[str] = []
        try:
            message = hl7.heading(data)
            message = hl7.parse(data)
            if update := update_of(message):
                patients = [one.patient_id for one in update]
                reason = self._updated(update, host)
            elif self._patients is not None and (changes := changes_of(message)) is not None:
                reason = ", ".join(make_changes(self._patients, changes, f"HL7 {host}"))
            else:
                orders = hl7.orders_of(message, self._settings.hl7_station_by_modality)
                self._steps.apply_orders(orders, self._now())
        except hl7.MessageRefused as refused:
            verdict, reason, error = refused.code, str(refused), refused.error
        except UsageError as refused:
            verdict, reason, error = "AE", str(refused), 204
        except OutOfResources:
            verdict, reason = "AE", "out of resources: send the message again later"
        except Exception as failure:
            log.exception("hl7_failed", exc_info=failure)
            verdict, reason = "AE", "internal failure, see the log of the node"
        self._note(host, orders, patients, verdict, reason)
        if verdict == "AA":
            return hl7.acknowledgment(message, verdict, reason, self._ae_title, self._now())
        remedy = "correct it at the sender, which must send the message again"
        self._on_refusal(Refused("hl7", hl7.ERRORS[error], reason, remedy, host, offered=hl7.type_of(message)))
        return hl7.acknowledgment(message, verdict, reason, self._ae_title, self._now(), error)

    def _updated(self, people: Sequence[Person], host: str) -> str:
        """Change the entries of a patient, and correct what is stored; return what was done."""
        root, person = self._patients, people[0]
        if root is not None:  # so that nothing is changed if it raises
            root.ingest.index.ahead.require_caught_up()
            persons = root.ingest.index.repository(PersonRepository)
            person = persons.first_known(people)
            persons.planned_update(person)
        reason = UPDATED.format(update_entries(self._steps, people[0], self._now()))
        correction = PatientLink(False, person, person, is_correction=True)
        if root is not None and (done := make_changes(root, [correction], f"HL7 {host}")) != (LEFT,):
            reason += f"; stored: {', '.join(done)}"
        return reason

    def _note(self, host: str, orders: list[OrderedStep], patients: list[str], verdict: str, reason: str) -> None:
        """Log the message, about orders or patients, and record it in the audit log (PS3.15 A.5.3.9)."""
        is_idle = verdict != "AA" or set(reason.split(", ")) <= {LEFT, UPDATED.format(0)}
        log.info("hl7_message", address=host, result=verdict, count=len(orders), reason=reason, is_refusal=is_idle)
        steps = [order.step for order in orders if order.step is not None]
        objects = [
            *(
                {"study_instance_uid": step.study_instance_uid or "", "patient_id": step.patient_id or ""}
                for step in steps
            ),
            *({"patient_id": patient} for patient in patients),
        ]
        result = Result.SUCCESS if verdict == "AA" else Result.MINOR_FAILURE
        participants = [Participant("HL7", SOURCE, host, True), Participant(self._ae_title, APPLICATION)]
        states = Counter(order.state or "as before" for order in orders)
        counts = "".join(f"{count} steps {state}, " for state, count in states.items())
        detail = f"{counts}{verdict} {reason}".strip()
        if self._audit is None:
            return
        event, action = AuditEvent.PROCEDURE_RECORD, AuditAction.UPDATE
        self._audit.note(AuditMessage(event, action, result, participants, objects, detail), is_idle=is_idle)


class _TooMuch(Exception):
    """A peer sends what is no message, too long a one, or too slowly."""


MERGE, UNLINK, RENAME = "ADT^A40", "ADT^A37", "ADT^A47"
UPDATES = ("ADT^A08", "ADT^A31")
UPDATED = "{} worklist entries updated"


def update_of(message: hl7.Hl7Message) -> list[Person]:
    """Return the patient whom a message describes anew, by each of the identifiers; none if it is of another type.

    A field that is empty or the null of HL7 changes nothing. Raises hl7.MessageRefused.
    """
    if hl7.type_of(message) not in UPDATES:
        return []
    people = [_person(message, one, 3).person for one in message.of_patient(message.only("PID"), 3)]
    for person in people:
        _require_id(person, "PID-3")
    return people


def update_entries(steps: ScheduledStepRepository, person: Person, now: dt.datetime) -> int:
    """Change the entries of a patient that are not over; return how many. A repetition changes nothing else.

    Raises UsageError, with nothing changed, if the patients of several issuers may be meant.
    """
    birth_date = f"{person.patient_birth_date:%Y%m%d}" if person.patient_birth_date else ""
    texts = asdict(person) | {"patient_birth_date": birth_date}
    names = "patient_name", "patient_birth_date", "patient_sex"
    changed = partial(step_of, {name: texts[name] for name in names if texts[name]})
    return steps.update_patient(person.patient_id, person.issuer_of_patient_id, changed, now)


def _require_id(person: Person, fields: str) -> None:
    texts = person.patient_id, person.issuer_of_patient_id, person.patient_name, person.patient_sex
    if not person.patient_id or not all(map(is_short, texts)):
        reason = f"{fields} must have a Patient ID, and no text of more than {MAX_TEXT_BYTES} bytes"
        raise hl7.MessageRefused("AE", reason)


def changes_of(message: hl7.Hl7Message) -> list[PatientLink] | None:
    """Return what a message about patients asks for; None if it is of another type. Raises hl7.MessageRefused."""
    kind = hl7.type_of(message)
    if kind not in (MERGE, UNLINK, RENAME):
        return None
    found: list[PatientLink] = []
    last: list[_Named] = []
    for segment in message.segments:
        if segment[0] == "PID":
            people = [_person(message, one, 3) for one in message.of_patient(segment, 3)]
            if kind == UNLINK and last:
                found.append(PatientLink(False, last[0].person, people[0].person))
            last = people
        elif segment[0] == "MRG" and kind != UNLINK and last:
            priors = [_person(message, one, 1) for one in message.of_patient(segment, 1)]
            found += _merges(priors, last, is_correction=kind == RENAME)
    if not found:
        raise hl7.MessageRefused("AE", "ADT^A40 and A47 need PID and MRG segments, ADT^A37 two PID segments")
    for one in (person for change in found for person in (change.one, change.other)):
        _require_id(one, "PID and MRG-1")
    return found


@dataclass(frozen=True, slots=True)
class _Named:
    """A patient by one of the identifiers that a message has of him or her, and the type of that (CX-5)."""

    person: Person
    kind: str


def _person(message: hl7.Hl7Message, segment: tuple[str, ...], field: int) -> _Named:
    number, kind = (message.value(segment, field, part) for part in (1, 5))
    issuer = message.authority(segment, field)
    if segment[0] == "MRG":
        return _Named(Person(number, issuer, "", None, ""), kind)
    name, text = hl7.patient_name_of(message, segment), hl7.birth_date_of(message, segment)
    birth_date = date_of(text)
    if text and birth_date is None:
        raise hl7.MessageRefused("AE", "PID-7 must be empty or a date")
    return _Named(Person(number, issuer, name, birth_date, hl7.sex_of(message, segment)), kind)


def _merges(priors: Sequence[_Named], remaining: Sequence[_Named], *, is_correction: bool) -> Iterator[PatientLink]:
    """Yield the merge of each prior identifier into that of its authority and type, else of its authority, else the
    first (HL7 v2.5.1 3.3.40). One of several that stays as it is merges nothing."""
    for prior in priors:

        def unlike(one: _Named, prior: _Named = prior) -> tuple[bool, bool]:
            is_other = one.person.issuer_of_patient_id != prior.person.issuer_of_patient_id
            return is_other, not is_other and one.kind != prior.kind

        other = min(remaining, key=unlike).person
        if len(priors) == 1 or prior.person.key != other.key:
            yield PatientLink(True, prior.person, other, is_correction)


def make_changes(root: Root, links: Sequence[PatientLink], who: str) -> tuple[str, ...]:
    """Merge or separate patients, all of them or none; audited before and after.

    Returns what was done of each and, last, who else has the studies as they were.

    Raises UsageError, with nothing changed: see `PersonRepository.link`.
    """
    index = root.ingest.index
    index.ahead.require_caught_up()
    order = f"link {len(links)} pairs of patients"
    by = partial(AuditMessage.by, who, AuditEvent.PATIENT_RECORD, AuditAction.UPDATE, order)
    objects = [{"patient_id": person.patient_id} for link in links for person in (link.one, link.other)]
    persons = index.repository(PersonRepository)
    persons.require_room(links)
    done = root.audit.change(
        by(objects),
        lambda ordered: persons.link(links, index.now(), who, ordered),
        lambda done: by([*objects, *({"study_instance_uid": uid} for uid in done.studies)]),
        is_late=True,
    )
    with index.reading() as view:
        found = holders(view, root.settings, done.studies) if done.studies else []
    names = ", ".join(dict.fromkeys(one.who for one in found))
    return (*done.outcomes, *([f"elsewhere as before: {names}"] if names else []))
