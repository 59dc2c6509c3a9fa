import ast
import io
import json
import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from node.errors import OutOfResources, UsageError
from node.runtime import logs
from node.runtime.logs import LINES_OF_MINUTE, MAX_ADDRESSES, LinesOfAddresses

NODE = Path(logs.__file__).parent


@pytest.fixture
def lines() -> Iterator[Any]:
    """Configure the log onto a string; gives a function that reads its JSON lines."""
    root = logging.getLogger()
    before = root.handlers, root.level
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for handler in root.handlers:
        with suppress(OSError):  # its disk is full
            handler.close()
    root.handlers, root.level = before
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_an_allowed_field_is_written(lines: Any) -> None:
    structlog.get_logger("node.test").info("instance_kept", calling_ae_title="CT1", bytes=5)
    (line,) = lines()
    assert (line["event"], line["calling_ae_title"], line["bytes"], line["level"]) == (
        "instance_kept",
        "CT1",
        5,
        "info",
    )
    assert line["timestamp"].endswith("Z")


def test_a_field_that_nobody_allowed_loses_its_value(lines: Any) -> None:
    structlog.get_logger("node.test").info("kept", patient_name="Doe^Jane", dataset={"PatientID": "123"})
    assert "Doe" not in json.dumps(lines())
    assert lines()[0]["patient_name"] == "[not logged]"


def test_a_peer_cannot_forge_a_line_or_move_the_cursor(lines: Any) -> None:
    structlog.get_logger("node.test").info("refused", calling_ae_title='X\n{"event": "forged"}\x1b[2J')
    (line,) = lines()
    assert line["calling_ae_title"] == 'X\\n{"event": "forged"}\\x1b[2J'


def test_a_value_has_a_largest_length(lines: Any) -> None:
    structlog.get_logger("node.test").info("refused", reason="x" * 100_000)
    assert len(lines()[0]["reason"]) < 600


def test_a_traceback_names_the_code_but_not_the_values(lines: Any) -> None:
    def fail() -> None:
        raise ValueError("Invalid value for PN: Doe^Jane")

    try:
        fail()
    except ValueError:
        structlog.get_logger("node.test").exception("c_store_failed")
    (line,) = lines()
    assert "in fail" in line["exception"]
    assert line["exception"].endswith("builtins.ValueError")
    assert "Doe^Jane\n" not in line["exception"]


def test_our_own_errors_tell_their_message_and_their_cause(lines: Any) -> None:
    try:
        try:
            raise ValueError("Doe^Jane".lower())
        except ValueError as error:
            raise OutOfResources("the disk is full") from error
    except OutOfResources:
        structlog.get_logger("node.test").exception("c_store_failed")
    reported = lines()[0]["exception"]
    assert "the disk is full" in reported
    assert reported.index("builtins.ValueError") < reported.index("OutOfResources: the disk")
    assert "doe^jane" not in reported


def test_text_of_libraries_is_replaced_by_its_place(lines: Any) -> None:
    logging.getLogger("some.library").warning(f"bad name {'doe^jane'}")
    logging.getLogger("some.library").warning("bad name %s", "doe^jane")
    first, second = lines()
    assert "doe" not in json.dumps([first, second])
    assert first["code"].startswith("test_logs:")
    assert second["template"] == "bad name %s"


def test_libraries_that_quote_data_sets_are_silent(lines: Any) -> None:
    for name in ("pynetdicom.assoc", "pydicom", "py.warnings", "httpx2"):
        logging.getLogger(name).error("Doe^Jane")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("Invalid value for VR PN: Doe^Jane", UserWarning, stacklevel=1)
    assert lines() == []


def test_a_command_prints_warnings_of_the_node_alone(lines: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure_command("json")
    logging.getLogger("pydicom").warning("value of %s is not valid", "Doe^Jane")
    logging.getLogger("py.warnings").warning("of a library")
    structlog.get_logger("node.test").warning("disk_full")
    structlog.get_logger("node.test").info("started")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["disk_full"]


def test_a_stream_that_is_gone_costs_the_line_and_prints_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    stream.close()
    structlog.get_logger("node.test").info("kept")
    logging.getLogger("some.library").warning("bad name %s", "Doe^Jane")
    assert capfd.readouterr() == ("", "")


def test_a_line_that_cannot_be_rendered_is_reported_without_its_values(
    lines: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    [handler] = [handler for handler in logging.getLogger().handlers if isinstance(handler, logs._Handler)]
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])  # that of pytest raises
    monkeypatch.setattr(handler, "formatter", logging.Formatter())
    logging.getLogger("some.library").warning("bad name %d", "Doe^Jane")
    assert lines() == [{"event": "line_not_logged", "error": "TypeError"}]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_every_field_that_the_node_logs_is_allowed() -> None:
    unknown = {
        f"{path.relative_to(NODE)}:{call.lineno}: {keyword.arg}"
        for path in NODE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in {"debug", "info", "warning", "error", "exception", "critical", "bind", "bind_contextvars"}
        for keyword in call.keywords
        if keyword.arg not in logs.ALLOWED_FIELDS | {"exc_info", None}  # None: **fields, held back when they are logged
    }
    assert unknown == set(), "add the field to node.logs.ALLOWED_FIELDS if its value can never be a patient's"


def test_a_file_has_the_same_lines_and_is_its_owners_alone(lines: Any, tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    logs.write_to_file(file, 10_000, 3)
    structlog.get_logger().info("instance_kept", bytes=5, patient="Nemo^Captain")
    logging.getLogger("other").warning("Nemo^Captain")
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line | {"timestamp": ""} for line in written] == [line | {"timestamp": ""} for line in lines()]
    assert "Nemo" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_is_renamed_when_it_is_full_and_the_oldest_goes(lines: Any, tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    logs.write_to_file(file, 10_000, 3)
    for number in range(1000):
        structlog.get_logger().info("instance_kept", count=number)
    files = [file.with_name(name) for name in ("node.log.3", "node.log.2", "node.log.1", "node.log")]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    found = [json.loads(line)["count"] for each in files for line in each.read_text().splitlines()]
    assert found == list(range(1000 - len(found), 1000))
    assert all(each.stat().st_size <= 10_000 and each.stat().st_mode & 0o777 == 0o600 for each in files)
    assert len(lines()) == 1000


def test_a_file_that_cannot_be_written_is_reported_with_its_key(lines: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\[log\] file = .*No such file or directory"):
        logs.write_to_file(tmp_path / "nowhere" / "node.log", 10_000, 3)


def test_a_full_disk_costs_lines_of_the_file_and_nothing_else(lines: Any) -> None:
    logs.write_to_file(Path("/dev/full"), 10_000, 3)
    structlog.get_logger().info("instance_kept", count=1)
    assert lines()[0]["count"] == 1


def test_a_flood_of_lines_of_one_address_is_counted_and_hides_no_other() -> None:
    now = [0.0]
    lines = LinesOfAddresses(lambda: now[0])

    def written(event: str, address: str, times: int) -> int:
        return sum(lines.is_due(event, address) for _ in range(times))

    with capture_logs() as logged:
        assert written("http_request", "2001:db8::1", 500) == LINES_OF_MINUTE
        assert written("http_request", "2001:db8::2", 500) == 0, "the same client"
        assert written("http_request", "10.0.0.1", 3) == 3
        assert written("association_rejected", "2001:db8::1", 1) == 1
        now[0] = 30.0
        assert written("http_request", "10.0.0.1", 9) == LINES_OF_MINUTE - 3
        assert logged == []
        now[0] = 61.0
        assert lines.is_due("http_request", "10.0.0.9")
    assert [(line["kind"], line["address"], line["count"]) for line in logged] == [
        ("http_request", "2001:db8::/64", 1000 - LINES_OF_MINUTE),
        ("http_request", "10.0.0.1", 12 - LINES_OF_MINUTE),
    ]
    kinds = [lines.is_due("hl7_message", "10.0.0.2", f"{kind} after {n} bytes") for n in range(30) for kind in "abcd"]
    assert sum(kinds) == LINES_OF_MINUTE, "the first of each kind is among them"
    kinds = [lines.is_due("hl7_message", "10.0.0.2", f"reason-{kind}") for kind in range(500)]
    assert sum(kinds) == logs.KINDS_OF_MINUTE - len("abcd")
    now[0] += 61
    with capture_logs() as logged:
        lines.report_ended()
    assert [line["count"] for line in logged if line["kind"] == "hl7_message"] == [120 + 500 - LINES_OF_MINUTE - 28]
    with capture_logs() as logged:
        assert sum(lines.is_due("http_request", f"10.1.{n >> 8}.{n & 255}") for n in range(5000)) == 5000
    assert logged == []
    assert len(lines._counts) <= MAX_ADDRESSES


def test_a_flood_of_lines_of_a_library_is_counted_in_every_place_that_lines_go_to(
    lines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(logs._of_libraries, "_lines", LinesOfAddresses(lambda: now[0]))
    logs.write_to_file(tmp_path / "log")
    logs.keep_newest()
    library, ours = logging.getLogger("uvicorn.error"), structlog.get_logger("node.test")
    for number in range(200):
        library.error("Invalid HTTP request received.", exc_info=ValueError(number))
        ours.warning("ours")
    library.error("another place")
    places = (lines(), [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()], logs.newest())
    for found in places:
        events = [line["event"] for line in found]
        assert (events.count("library_message"), events.count("ours")) == (LINES_OF_MINUTE + 1, 200)
    now[0] += 61
    library.error("the next minute")
    [left_out] = [line for line in lines() if line["event"] == "lines_left_out"]
    assert left_out["count"] == 200 - LINES_OF_MINUTE


def test_of_warnings_about_an_address_and_of_refusals_the_first_are_written_wherever_they_are_logged(
    lines: Any,
) -> None:
    log = structlog.get_logger()
    for number in range(50):
        log.bind(peer=f"10.0.0.1:{number}").warning("c_store_refused", reason=f"after {number} bytes")
        log.info("c_find", peer="::1:104", is_refusal=True)
        log.info("c_find", peer="10.0.0.1:104", is_refusal=False)
        log.warning("disk_full", path="/srv")
    counts = Counter(line["event"] for line in lines())
    assert counts == {"c_store_refused": LINES_OF_MINUTE, "c_find": 50 + LINES_OF_MINUTE, "disk_full": 50}
    assert not any("is_refusal" in line for line in lines())
    logs.refusals.report_ended(math.inf)
    assert [(one["kind"], one["address"], one["count"]) for one in lines()[-2:]] == [
        ("c_store_refused", "10.0.0.1", 50 - LINES_OF_MINUTE),
        ("c_find", "::/64", 50 - LINES_OF_MINUTE),
    ]
