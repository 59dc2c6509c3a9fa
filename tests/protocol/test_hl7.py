"""Orders by HL7 v2 over MLLP, over real connections."""

from __future__ import annotations

import datetime as dt
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from node.api import Audit, Index, Settings
from node.control.checks import problems
from node.dicom.json_model import entry_text
from node.extensions.worklist.hl7 import MessageRefused, orders_of, parse
from node.extensions.worklist.listed import StepViews
from node.extensions.worklist.mllp import MllpListener
from node.extensions.worklist.scheduled_rows import ScheduledStepRepository
from node.extensions.worklist.settings import WorklistSettings
from node.receive.senders import Rejections
from node.runtime.metrics import Metrics
from tests.protocol.conftest import DEADLINE_SECONDS, client_context
from tests.rows import write_rows
from tests.waiting import until

MSH = "MSH|^~\\&|RIS|HOSPITAL|NODE||20261121090000||{kind}|MSG{number}|P|2.5.1||||||{charset}"
PID = "PID|1||P1^^^HOSPITAL||{name}||19700131|F"
ORM = (
    MSH, PID, "PV1|1|O||||||77^Who^Doctor^X^II^Dr",
    "ORC|{control}|{order}|FI-1||{status}||^^^202611211015",
    "OBR|1|{order}|FI-1|CT-T^CT of the thorax^99X||||||||||||||A100|RP1|SPS1|CT1|||CT|{result}||^^^202611211015",
    "ZDS|1.2.840.1.5^^Application^DICOM",
)  # fmt: skip
OMI = (
    MSH, PID, "ORC|{control}|PL-2", "TQ1|1||||||20261122083000",
    "OBR|1|PL-2||MR-K^MR of the head^99X",
    "IPC|A200|RP2|1.2.840.1.6|SPS2A|MR|T1^T1 weighted^99X|MR1||MR1AE",
    "IPC|A200|RP2|1.2.840.1.6|SPS2B|MR|T2^T2 weighted^99X|MR1||MR1AE",
)  # fmt: skip


def written(
    segments: tuple[str, ...] = ORM, kind: str = "ORM^O01^ORM_O01", control: str = "NW", number: int = 1,
    charset: str = "UNICODE UTF-8", name: str = "Müller^Jörg^Q^III^Dr", codec: str = "utf-8", status: str = "",
    order: str = "PL-1", result: str = "",
) -> bytes:  # fmt: skip
    values = {"kind": kind, "control": control, "number": number, "charset": charset, "name": name}
    values |= {"status": status, "order": order, "result": result}
    return "".join(segment.format(**values) + "\r" for segment in segments).encode(codec)


class Sender:
    """A system that sends orders."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self._unread = b""

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, message: bytes) -> list[str]:
        """Send a message; the fields of the MSA segment of its answer."""
        self.socket.sendall(b"\x0b" + message + b"\x1c\x0d")
        return self.answer()

    def answer(self) -> list[str]:
        """The next answer; those that come with it are kept for the next calls."""
        while b"\x1c\x0d" not in self._unread:
            more = self.socket.recv(4096)
            assert more, "the node closed"
            self._unread += more
        data, _, self._unread = self._unread.partition(b"\x1c\x0d")
        assert data.startswith(b"\x0bMSH|^~\\&|VOXELNODE||RIS|HOSPITAL|") or b"|AR|" in data
        return re.findall(rb"\r(MSA[^\r]*)\r", data)[0].decode().split("|")

    def is_closed(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    monkeypatch.setattr("node.extensions.worklist.mllp.TICK_SECONDS", 0.05)  # within which a listener stops
    index = Index(tmp_path / "root", Metrics())
    (tmp_path / "root").mkdir(exist_ok=True)  # an index in PostgreSQL does not make it
    audit = Audit(tmp_path / "root", "VOXELNODE")
    started: list[MllpListener] = []
    rejections = Rejections(index, Metrics())

    def start(**settings: Any) -> int:
        section, steps = WorklistSettings(hl7_port=0, **settings), index.repository(ScheduledStepRepository)
        started.append(MllpListener(section, "VOXELNODE", steps, Metrics(), audit, on_refusal=rejections.record))
        started[-1].start()
        return started[-1].port

    start.index, start.rejections = index, rejections  # type: ignore[attr-defined]
    yield start
    for listener in started:
        listener.stop()
    index.close()


def entries(listening: Any) -> dict[str, dict[str, Any]]:
    """The entries of the worklist, by the ID of their step."""
    with listening.index.reading() as index:
        steps = index.views(StepViews)
        rows = [steps.entry(row["id"]) for row in steps.page(None, 100)]
    return {row["scheduled_procedure_step_id"]: row for row in rows if row is not None}


def refusals(listening: Any) -> list[dict[str, Any]]:
    """What is listed as refused, the newest first."""
    listening.rejections.step()
    with listening.index.reading() as index:
        return [dict(row) for row in index.rejections.newest(1000)]


def rows_of(listening: Any) -> list[Any]:
    with listening.index.reading() as index:
        return list(index.views(StepViews).page(None, 1000))


def test_orders_come_over_tls_from_known_senders_only(listening: Any, keys: Path) -> None:
    files = {"hl7_tls_certificate": keys / "server.pem", "hl7_tls_key": keys / "server.key"}
    port = listening(**files, hl7_tls_client_ca=keys / "ca.pem")
    silent = socket.create_connection(("127.0.0.1", port))
    with Sender(port, client_context(keys)) as sender:
        assert sender.send(written())[1] == "AA"
        assert sender.send(written(number=2))[1] == "AA"
    assert set(entries(listening)) == {"SPS1"}
    with Sender(port) as plain:
        plain.socket.sendall(b"\x0b" + written(number=3) + b"\x1c\x0d")
        assert plain.is_closed()
    with pytest.raises((OSError, AssertionError)), Sender(port, client_context(keys, None)) as sender:
        sender.send(written(number=4))  # an alert, or a connection that is closed
    silent.close()
    until(lambda: ("hl7", "TLS") in {(row["what"], row["rule"]) for row in refusals(listening)})


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"hl7_tls_key": "server.key"}, "need hl7_tls_certificate"),
        ({"hl7_tls_certificate": "none.pem"}, "hl7_tls_certificate"),
        ({"hl7_tls_certificate": "server.pem", "hl7_tls_key": "server.key", "hl7_tls_client_ca": "x"}, "tls_client_ca"),
    ],
)
def test_tls_that_is_configured_wrongly_is_reported(keys: Path, files: dict[str, str], reason: str) -> None:
    settings = Settings(worklist=WorklistSettings(hl7_port=0, **{key: keys / name for key, name in files.items()}))
    assert [problem for problem in problems(settings) if reason in problem]


def test_an_order_is_scheduled_changed_and_cancelled(listening: Any) -> None:
    with Sender(listening()) as sender:
        assert sender.send(written())[:3] == ["MSA", "AA", "MSG1"]
        [(step, row)] = entries(listening).items()
        assert (step, row["source"], row["patient_id"], row["modality"]) == ("SPS1", "hl7", "P1", "CT")
        assert row["patient_name"] == "Müller^Jörg^Q^Dr^III"  # prefix and suffix change places
        assert (row["accession_number"], row["requested_procedure_id"]) == ("A100", "RP1")
        assert (row["study_instance_uid"], row["station_ae_title"]) == ("1.2.840.1.5", "CT1")
        assert (row["start_date"], row["start_time"]) == (dt.date(2026, 11, 21), dt.time(10, 15))
        assert row["attributes"]["00080090"]["Value"] == [{"Alphabetic": "Who^Doctor^X^Dr^II"}]
        assert row["attributes"]["00402016"]["Value"] == ["PL-1"]
        assert sender.send(written(control="NW", number=2))[1] == "AA"  # sent again after a lost answer
        assert sender.send(written(control="XO", number=3, name="Maier^Hans"))[1] == "AA"
        [row] = entries(listening).values()
        assert row["patient_name"] == "Maier^Hans"
    lines = (listening.index.root / "audit.jsonl").read_text().splitlines()
    assert sum("1 steps scheduled" in line for line in lines) == 2


EFFECTS = {
    "scheduled": "NW RO CH RL OE OR", "held": "HD OH HR XO XX XR PA SC SN NA", "canceled": "CA OC CR RP RU RQ",
    "discontinued": "DC OD DR",
    "": "AF DF FU OF RF OP PY CN PR RE DE OK RR NR SR UA UC UD UF UH UM UR UX LI UN MC SS CP RA RC RD SQ SU ZZ nothing",
}  # fmt: skip
"""HL7 table 0119, all its codes, for an order that is held; without an effect, they are refused."""

STATUSES = {
    "": "held", "SC": "scheduled", "IP": "in-progress", "A": "in-progress", "HD": "held", "CA": "canceled",
    "RP": "canceled", "DC": "discontinued", "CM": "completed", "ER": "", "ZZ": "",
}  # fmt: skip
"""HL7 table 0038, all its codes."""


@pytest.mark.slow
def test_every_order_control_and_order_status_is_done_or_refused(listening: Any) -> None:
    controls = [(code, "", state) for state, codes in EFFECTS.items() for code in codes.split()]
    assert len(controls) == 58 + 2
    statuses = [("SC", status, state) for status, state in STATUSES.items()]
    unknown = [(control, "ZZ", "") for control, _, state in controls if state]
    with Sender(listening()) as sender:
        for control, status, state in (*controls, *statuses, *unknown):
            assert sender.send(written(order=f"{control}{status}", status="HD"))[1] == "AA"
            answer = sender.send(written(order=f"{control}{status}", control=control.lower(), status=status.lower()))
            key = f"{control}{status}\\SPS1"
            [row] = [row for row in rows_of(listening) if row["source_key"] == key]
            assert (answer[1], row["state"]) == (("AA", state) if state else ("AE", "held")), (control, status)
            assert "one of" in answer[3] or state
    assert len([row for row in refusals(listening) if row["rule"] == "table value not found"]) == 2


OBR = "OBR|1|||CT-T^CT||||||||||||||{}|RP1|{}||||CT|{}||^^^202611211015"
ONE, TWO, NONE, OTHER = (("A1", "S1", ""),), (("A1", "", ""), ("A2", "", "")), (("A1", "", ""),), (("A2", "", ""),)


@pytest.mark.sample(8)
@pytest.mark.parametrize(
    ("messages", "verdict", "expected"),
    [
        ((("NW|P", TWO), ("CA|P", ())), "AA", {"A1": "canceled", "A2": "canceled"}),
        ((("NW|P", TWO), ("XO|P", NONE)), "AE", {"A1": "scheduled", "A2": "scheduled"}),
        ((("NW|P", ONE), ("HD|P", NONE)), "AA", {"A1": "held"}),
        ((("NW|P", ONE), ("SC|P|||IP", NONE)), "AA", {"A1": "in-progress"}),
        ((("NW|P", NONE), ("CA|P", ONE)), "AA", {"A1": "canceled"}),
        ((("NW|P", NONE), ("XO|P", ONE), ("HD|P", ONE)), "AA", {"A1": "held"}),
        ((("NW|P|F", NONE), ("OC||F", NONE)), "AA", {"A1": "canceled"}),
        ((("SN||F", NONE), ("NA|P|F", NONE), ("CA|P", ())), "AA", {"A1": "canceled"}),
        ((("NW|F", NONE), ("SN||F", OTHER)), "AA", {"A1": "scheduled", "A2": "scheduled"}),
        ((("NW|P^H1", NONE), ("NW|P^H2", OTHER), ("CA|P^H1", ())), "AA", {"A1": "canceled", "A2": "scheduled"}),
        ((("NW|P^H1", NONE), ("NW|P^H2", OTHER), ("CA|P", ())), "AE", {"A1": "scheduled", "A2": "scheduled"}),
        ((("NW|P^H1", NONE), ("CA|P", ())), "AA", {"A1": "canceled"}),
        ((("NW|P", NONE), ("XO|P^H1", NONE), ("CA|P^H1", ())), "AA", {"A1": "canceled"}),
        ((("NW|p", NONE), ("NW|P", OTHER), ("CA|P", ())), "AA", {"A1": "scheduled", "A2": "canceled"}),
        ((("CA|P", NONE), ("XO|P", NONE)), "AA", {"A1": "canceled"}),
        ((("NW|P|||IP", NONE), ("XO|P", (("A1", "", "s"),))), "AA", {"A1": "scheduled"}),
        ((("NW|P", NONE), ("SC|P|||SC", (("A1", "", "x"),))), "AA", {"A1": "canceled"}),
        ((("NW|P", NONE), ("SC|P", (("A1", "", "c"),))), "AA", {"A1": "completed"}),
        ((("CA|P", NONE), ("NW|P", NONE)), "AA", {"A1": "scheduled"}),  # it is ordered again
        ((("NW|P", NONE), ("HD|P", ()), ("RL|P", ())), "AA", {"A1": "scheduled"}),
        ((("NW|P", NONE), ("SC|P|||CM", ()), ("CA|P", ()), ("NW|P", NONE)), "AA", {"A1": "completed"}),
        ((("NW|P", NONE), ("DC|P", ()), ("CA|P\rORC|CA|ELSE", ())), "AE", {"A1": "discontinued"}),
    ],
)  # fmt: skip
def test_what_is_said_of_an_order_is_done_to_its_entries_and_no_others(
    listening: Any, messages: Any, verdict: str, expected: dict[str, str]
) -> None:
    with Sender(listening(hl7_station_by_modality={"CT": "CT1"})) as sender:
        for order, steps in messages:
            answer = sender.send(written((MSH, PID, f"ORC|{order}", *(OBR.format(*step) for step in steps))))
    assert answer[1] == verdict
    assert {row["accession_number"]: row["state"] for row in rows_of(listening)} == expected


@pytest.mark.parametrize(
    ("pid", "verdict"),
    [
        ("P1", "AA"), ("P1^^^HOSPITAL", "AA"), ("", "AA"), ("9^^^GOV^SS~P1^^^HOSPITAL^MR", "AA"), ("P2", "AE"),
        ("P1^^^OTHER", "AE"), ("P2^^^HOSPITAL^MR~P1^^^HOSPITAL^AN", "AE"), ("0P1", "AE"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("control", ["CA", "HD", "DC", "SC|PL-1|||CM"])
def test_what_ends_or_holds_an_order_is_of_its_patient(listening: Any, control: str, pid: str, verdict: str) -> None:
    order = control if "|" in control else f"{control}|PL-1"
    with Sender(listening()) as sender:
        assert sender.send(written())[1] == "AA"
        assert sender.send(written((MSH, f"PID|1||{pid}", f"ORC|{order}")))[1] == verdict
    [row] = rows_of(listening)
    assert (row["state"] == "scheduled") is (verdict == "AE")


NAMES = "Yamada^Tarou^^^^^L^A", "山田^太郎^^^^^L^I", "ﾔﾏﾀﾞ^ﾀﾛｳ^^^^^L^P"


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("pid", "expected"),
    [
        ("PID|||P1||" + "~".join(NAMES), ("P1", "", "Yamada^Tarou=山田^太郎=ﾔﾏﾀﾞ^ﾀﾛｳ", "")),
        ("PID|||P1||" + "~".join(reversed(NAMES)), ("P1", "", "Yamada^Tarou=山田^太郎=ﾔﾏﾀﾞ^ﾀﾛｳ", "")),
        (f"PID|||P1||{NAMES[1]}", ("P1", "", "=山田^太郎", "")),
        ("PID|||P1||Maid^Ann^^^^^M~Wed^Ann^^^^^L", ("P1", "", "Wed^Ann", "")),
        ("PID|||P1||Doe^Jane~Roe^Ann", ("P1", "", "Doe^Jane", "")),
        ("PID|||P1||Doe^Jane^^^^^L^S", ("P1", "", "Doe^Jane", "")),
        ("PID|||P1||Doe^Jane||1970", ("P1", "", "Doe^Jane", "")),
        ("PID|||P1||Doe^Jane||197002", ("P1", "", "Doe^Jane", "")),
        ("PID|||P1||Doe^Jane||197002031530+0100", ("P1", "", "Doe^Jane", "19700203")),
        ("PID|||9^^^GOV^SS~~P1^^^A^MR||Doe^Jane", ("P1", "A", "Doe^Jane", "")),
        ("PID|||77^^^A^AN~P1^^^A||Doe^Jane", ("P1", "A", "Doe^Jane", "")),
        ("PID|||P2^^^B^PI~P1^^^A^MR||Doe^Jane", ("P1", "A", "Doe^Jane", "")),
        ("PID|||9^^^GOV^NH||Doe^Jane", ("9", "GOV", "Doe^Jane", "")),
        ("PID|||P1^^^A&1.2.3&ISO||Doe^Jane", ("P1", "A", "Doe^Jane", "")),
        ("PID|||P1^^^&1.2.3&ISO||Doe^Jane", ("P1", "1.2.3", "Doe^Jane", "")),
    ],
)  # fmt: skip
def test_a_patient_is_read_by_types_and_representations(
    listening: Any, pid: str, expected: tuple[str, str, str, str]
) -> None:
    with Sender(listening()) as sender:
        assert sender.send(written((MSH, pid, *ORM[2:])))[1] == "AA"
    [row] = entries(listening).values()
    keywords = "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate"
    assert tuple(entry_text(row["attributes"], one) or "" for one in keywords) == expected


def test_a_patient_update_changes_the_entries_that_are_not_over(listening: Any) -> None:
    def update(pid: str) -> bytes:
        return f"MSH|^~\\&|RIS|HOSPITAL|||20260101||ADT^A08^ADT_A01|A1|P|2.5.1\r{pid}\r".encode()

    with Sender(listening()) as ris:
        assert ris.send(written())[1] == ris.send(written(OMI, "OMI^O23", number=2))[1] == "AA"
        over = "UPDATE scheduled_steps SET state = 'completed' WHERE scheduled_procedure_step_id = 'SPS2B'"
        write_rows(listening.index.root, over)
        for pid, verdict, reported in (
            ("PID|||P1^^^OTHER||Else^Who", "AA", "0 worklist entries updated"),
            ("PID|||P2^^^HOSPITAL||Else^Who", "AA", "0 worklist entries updated"),
            ("PID|||P1^^^HOSPITAL||Maier^Hans||19710203|a", "AA", "2 worklist entries updated"),
            ('PID|||P1||Mayer^Hans||""|', "AA", "2 worklist entries updated"),
            ("PID|||P1||Never^Been||19711340", "AE", "PID-7 must be empty or a date"),
            ("PID|||||Never^Been", "AE", "PID-3 must have a Patient ID"),
        ):
            answer = ris.send(update(pid))
            assert answer[1] == verdict
            assert answer[3].startswith(reported)
    rows = entries(listening)
    assert {step: row["patient_name"] for step, row in rows.items()} == {
        "SPS1": "Mayer^Hans", "SPS2A": "Mayer^Hans", "SPS2B": "Müller^Jörg^Q^Dr^III",
    }  # fmt: skip
    changed = rows["SPS1"]["attributes"]
    assert [entry_text(changed, name) for name in ("PatientBirthDate", "PatientSex")] == ["19710203", "O"]
    assert (rows["SPS1"]["accession_number"], rows["SPS1"]["station_ae_title"]) == ("A100", "CT1")
    lines = (listening.index.root / "audit.jsonl").read_text()
    assert "AA 2 worklist entries updated" in lines
    assert "Mayer" not in lines


def test_each_step_of_an_imaging_order_is_an_entry(listening: Any) -> None:
    with Sender(listening()) as sender:
        assert sender.send(written(OMI, "OMI^O23^OMI_O23"))[1] == "AA"
    rows = entries(listening)
    assert rows.keys() == {"SPS2A", "SPS2B"}
    assert {row["description"] for row in rows.values()} == {"T1 weighted", "T2 weighted"}
    assert {row["station_ae_title"] for row in rows.values()} == {"MR1AE"}
    assert {row["start_time"] for row in rows.values()} == {dt.time(8, 30)}


def test_each_order_of_a_message_has_its_own_study(listening: Any) -> None:
    with Sender(listening()) as sender:
        second = (text.replace("{order}", "PL-2").replace("1.5", "1.7") for text in ORM[3:])
        assert sender.send(written((*ORM, *second)))[1] == "AA"
    assert [row["study_instance_uid"] for row in rows_of(listening)] == ["1.2.840.1.7", "1.2.840.1.5"]


def test_what_an_order_lacks_is_made_up_alike_for_each_message(listening: Any) -> None:
    few = (MSH, PID, "ORC|{control}|" + "N" * 40, "OBR|1|||X^Y||||||||||||||||||||CT|||^^^20261121")
    with Sender(listening(hl7_station_by_modality={"CT": "CT9"})) as sender:
        assert sender.send(written(few))[1] == "AA"
        [first] = entries(listening).values()
        assert sender.send(written(few, control="XO"))[1] == "AA"
        [second] = entries(listening).values()
    assert first["study_instance_uid"].startswith("2.25.")
    same = ("id", "study_instance_uid", "scheduled_procedure_step_id", "requested_procedure_id", "station_ae_title")
    assert [second[name] for name in same] == [first[name] for name in same]
    assert (second["station_ae_title"], second["start_time"]) == ("CT9", dt.time(0, 0))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"charset": "", "codec": "latin-1"}, "Müller^Jörg^Q^Dr^III"),
        ({"charset": "", "codec": "utf-8"}, "Müller^Jörg^Q^Dr^III"),
        ({"name": "O\\T\\Neil^A\\S\\B"}, "O&Neil^A B"),
        ({"charset": "~ISO IR87", "codec": "iso2022_jp", "name": "山田^太郎"}, "山田^太郎"),
    ],
)  # fmt: skip
def test_text_is_decoded_by_character_set_without_escapes(listening: Any, options: dict[str, str], name: str) -> None:
    with Sender(listening()) as sender:
        assert sender.send(written(**options))[1] == "AA"
    [row] = entries(listening).values()
    assert row["patient_name"] == name


TABLE_0211 = (
    "ASCII", *(f"8859/{part}" for part in (*range(1, 10), 15)), "ISO IR6", "ISO IR14", "ISO IR87", "ISO IR159",
    "GB 18030-2000", "KS X 1001", "CNS 11643-1992", "BIG-5", "UNICODE", "UNICODE UTF-8", "UNICODE UTF-16",
    "UNICODE UTF-32", "",
)  # fmt: skip
TEXTS_OF = {
    "8859/1": "Müller", "8859/2": "Łódź", "8859/3": "Ħ", "8859/4": "Ķ", "8859/5": "Люкс", "8859/6": "علي",
    "8859/7": "Αθηνά", "8859/8": "שלום", "8859/9": "Işık", "8859/15": "Œ€", "ISO IR14": "ﾔﾏﾀﾞ", "ISO IR87": "山田",
    "ISO IR159": "丂", "GB 18030-2000": "Ł山Ü홍", "KS X 1001": "홍길동", "BIG-5": "王小東", "UNICODE": "Ł山Ü홍",
    "UNICODE UTF-8": "Ł山Ü홍", "": "Ł山Ü홍",
}  # fmt: skip
CODECS = {
    "ISO IR14": "shift_jis", "ISO IR87": "iso2022_jp", "ISO IR159": "iso2022_jp_2", "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr", "BIG-5": "big5", "ASCII": "ascii", "ISO IR6": "ascii",
}  # fmt: skip
SPELT = {
    "utf-8": ("UTF-8", "utf8", "UTF 8", "UNICODE-UTF-8", "unicode utf8", "ISO_IR 192"),
    "latin-1": ("ISO_IR 100", "ISO IR100", "ISO 8859-1", "ISO-8859-1", "8859-1", "iso8859_1", "LATIN1", "~8859/1"),
    "iso2022_jp": ("~ISO IR87", "ASCII~ISO IR87", "ISO IR6~ISO IR87~ISO IR159", "ISO_IR 87", "ISO IR14~ISO IR87"),
    "gb18030": ("GB18030", "GB18030-2000"), "big5": ("BIG5", "Big5"), "ascii": ("US-ASCII", "ISO_IR 6"),
    "iso8859_5": ("ISO-IR 144", "ISO 8859/5"), "euc_kr": ("EUC-KR", "KS_X_1001", "ISO_IR 149"),
}  # fmt: skip


def test_every_name_of_a_character_set_is_known_or_refused() -> None:
    for name in TABLE_0211:
        codec = CODECS.get(name) or (f"iso{name.replace('/', '-')}" if name.startswith("8859") else "utf-8")
        text = TEXTS_OF.get(name, "Doe^Jane")
        if name in ("CNS 11643-1992", "UNICODE UTF-16", "UNICODE UTF-32"):
            with pytest.raises(MessageRefused, match="MSH-18") as refused:
                parse(written(charset=name, name=text, codec=codec))
            assert refused.value.code == "AE"
        else:
            assert text in parse(written(charset=name, name=text, codec=codec)).named("PID")
    texts = {"latin-1": "Müller", "iso2022_jp": "山田", "gb18030": "张", "big5": "王", "ascii": "X", "utf-8": "Ł홍"}
    for codec, names in SPELT.items():
        for name in names:
            text = texts.get(codec, "홍" if codec == "euc_kr" else "Л")
            assert text in parse(written(charset=name, name=text, codec=codec)).named("PID"), name


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (b"", "AR", "does not begin with an MSH"),
        (b"MSH||||||||", "AR", "MSH-2"),
        (written(kind="ADT^A01"), "AR", "only ORM"),
        (written(charset="KLINGON"), "AE", "MSH-18"),
        (written(codec="latin-1"), "AE", "not in the character set"),
        (written((MSH, PID)), "AE", "no ORC"),
        (written((MSH, PID, "ORC|NW|1")), "AE", "no OBR"),
        (written(result="ZZ"), "AE", "OBR-25 must be empty or one of"),
        (written((*ORM, PID)), "AE", "several PID segments"),
        (written() + written(), "AE", "several MSH segments"),
        (written((MSH, PID.replace("|F", "|X"), *ORM[2:])), "AE", "PID-8 must be empty or one of"),
        (written((MSH, PID, "ORC|NW||", "OBR|1")), "AE", "ORC-2 or ORC-3"),
        (written((MSH, PID, "ORC|NW|1", "OBR|1")), "AE", "Modality (0008,0060) is missing"),
        (written(name="x" * 1100), "AE", "PatientName (0010,0010): must not be longer"),
        (written((MSH, PID, "ORC|NW|1", *(["OBR|1"] * 600))), "AR", "more than 500 segments"),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_answered_with_a_reason_that_names_nobody(
    listening: Any, message: bytes, code: str, reason: str
) -> None:
    with Sender(listening()) as sender:
        answer = sender.send(message)
        assert (answer[1], reason in answer[3]) == (code, True), answer
        [refusal] = refusals(listening)
        assert re.sub(r"[\^|]", " ", refusal["reason"]).startswith(answer[3])
        assert answer[2] == ("MSG1" if b"MSG1" in message else "")
        texts = "|".join([*answer, *map(str, refusal.values())])
        assert not any(secret in texts for secret in ("Müller", "P1", "xxx"))
        assert sender.send(written())[1] == "AA"  # the connection goes on
    assert len(entries(listening)) == 1


def test_several_messages_in_one_piece_and_one_in_many_are_answered(listening: Any) -> None:
    with Sender(listening()) as sender:
        sender.socket.sendall(b"".join(b"\x0b" + written(number=number) + b"\x1c\x0d" for number in (1, 2)))
        assert sender.answer()[2] == "MSG1"
        assert sender.answer()[2] == "MSG2"
        for byte in b"\x0b" + written(number=3) + b"\x1c\x0d":
            sender.socket.sendall(bytes([byte]))
        assert sender.answer()[2] == "MSG3"


def test_endless_slow_and_foreign_peers_are_closed(listening: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.extensions.worklist.mllp.MESSAGE_SECONDS", 0.5)
    port = listening()
    with Sender(port) as endless, suppress(OSError):
        endless.socket.sendall(b"x" * 100_000_000)
        raise AssertionError("the node has taken all of it")
    with Sender(port) as slow:
        slow.socket.sendall(b"\x0bMSH|")
        assert slow.is_closed()
    with Sender(port) as unframed:
        unframed.socket.sendall(written() + b"\x1c\x0d")
        assert unframed.is_closed()
    with Sender(port) as good:
        assert good.send(written())[1] == "AA"


def test_only_known_networks_may_send(listening: Any) -> None:
    with Sender(listening(hl7_networks=("10.0.0.0/8",))) as stranger:
        assert stranger.is_closed()


def test_a_connection_too_many_of_one_address_is_closed(listening: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.extensions.worklist.mllp.PER_ADDRESS", 3)
    port = listening()
    senders = [Sender(port) for _ in range(3)]
    assert all(sender.send(written())[1] == "AA" for sender in senders)
    with Sender(port) as late:
        late.socket.sendall(b"\x0b" + written() + b"\x1c\x0d")
        assert late.is_closed()
    senders.pop().socket.close()

    def is_free() -> bool:
        with Sender(port) as again:
            try:
                return again.send(written())[1] == "AA"
            except (OSError, AssertionError):
                return False

    until(is_free)
    for sender in senders:
        sender.socket.close()


def test_one_message_is_worked_on_at_a_time(listening: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    both, met, apply = threading.Barrier(2), [], ScheduledStepRepository.apply_orders

    def meeting(*given: Any) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.3)
            met.append(given)
        apply(*given)

    monkeypatch.setattr(ScheduledStepRepository, "apply_orders", meeting)
    port = listening()
    with Sender(port) as one, Sender(port) as other:
        for sender in (one, other):
            sender.socket.sendall(b"\x0b" + written() + b"\x1c\x0d")
        assert [sender.answer()[1] for sender in (one, other)] == ["AA", "AA"]
    assert met == []


def test_any_bytes_are_parsed_or_refused() -> None:
    whole = written(OMI, "OMI^O23")
    for end in range(len(whole)):
        for data in (whole[:end], whole[end:], whole[:end] + b"\x00\xff|^~" + whole[end:]):
            with suppress(MessageRefused):
                orders_of(parse(data), {})


def test_what_an_order_says_is_kept_whole_and_what_is_too_long_is_refused(listening: Any) -> None:
    accession, patient, text = "HOSPITAL-24-0001", "f" * 128, "T" * 100

    def order(number: str) -> bytes:
        segments = [segment.replace("A100", accession) for segment in ORM]
        segments = [one.replace("P1^^^", f"{patient}^^^").replace("CT of the thorax", text) for one in segments]
        return written(tuple(segments), order=number)

    with Sender(listening()) as sender:
        assert sender.send(order("1" * 300 + "A"))[1] == "AA"
        [row] = entries(listening).values()
        assert sender.send(order("1" * 300 + "B").replace(b"SPS1", b"SPS2"))[1] == "AA"
        assert len(entries(listening)) == 2
        refusals = [sender.send(order("9" * 1025)), sender.send(written(name="N" * 1100))]
        refusals += [sender.send(order("2").replace(accession.encode(), b"HOSPITAL-2024-0000001"))]
    assert (row["accession_number"], row["patient_id"], row["description"]) == (accession, patient, text)
    assert row["attributes"]["00080050"]["Value"] == [accession]
    assert [refusal[1] for refusal in refusals] == ["AE"] * 3
    assert "longer than 1024 bytes" in refusals[1][3]
    assert "AccessionNumber (0008,0050): must not be longer than 16 characters" in refusals[2][3]
