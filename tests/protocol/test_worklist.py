"""The modality worklist over real associations: entries from rows and files, with DCMTK's worklist as an oracle."""

import datetime as dt
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context

from node.audit.audit_log import Audit
from node.dicom.uids import VERIFICATION
from node.extensions.worklist import MODALITY_WORKLIST_FIND, PERFORMED_PROCEDURE_STEP, modality_worklist
from node.extensions.worklist.modality_worklist import checked, model_of, scheduled_step
from node.extensions.worklist.performed_steps import PerformedStepRepository
from node.extensions.worklist.scheduled_rows import ScheduledStepRepository
from node.extensions.worklist.settings import WorklistSettings
from node.settings.peers import Peer
from tests.make import dataset
from tests.protocol.conftest import Acceptor, Running, StartNode, associate
from tests.rows import write_rows

PENDING, PENDING_WITHOUT_KEYS = 0xFF00, 0xFF01
DCMTK = Path("/usr/bin")


def entry(number: int = 1, **attributes: Any) -> Dataset:
    """A worklist entry; keywords of a step go into its item."""
    step = {
        "Modality": "CT", "ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartDate": "20261121",
        "ScheduledProcedureStepStartTime": "101500", "ScheduledProcedureStepID": f"S{number}",
        "ScheduledPerformingPhysicianName": "Curie^Marie", "ScheduledProcedureStepDescription": "Thorax",
        "ScheduledProtocolCodeSequence": [
            dataset(CodeValue="C-1", CodingSchemeDesignator="99X", CodeMeaning="Chest", CodingSchemeVersion="1")
        ],
    }  # fmt: skip
    top: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192", "PatientName": "Doe^Jane", "PatientID": f"P{number}",
        "AccessionNumber": f"A{number}", "StudyInstanceUID": f"1.2.{number}", "RequestedProcedureID": f"R{number}",
        "RequestedProcedureDescription": "CT of the thorax", "ReferringPhysicianName": "Who^Doctor",
        "PatientBirthDate": "19700101", "PatientSex": "F",
    }  # fmt: skip
    for keyword, value in attributes.items():
        (step if keyword in step or keyword.startswith("Scheduled") else top)[keyword] = value
    return dataset(**top, ScheduledProcedureStepSequence=[dataset(**step)])


def plan(node: Running, *entries: Dataset) -> None:
    steps = node.ingest.index.repository(ScheduledStepRepository)
    for ds in entries:
        assert steps.add("rest", scheduled_step(checked(model_of(ds))), dt.datetime.now(dt.UTC)) is not None


def look_at_the_worklist(node: Running, keep_days: int) -> None:
    """Remove what is older than `keep_days`, beside the node's own look, which begins at any time."""
    index = node.ingest.index
    repositories = index.repository(ScheduledStepRepository), index.repository(PerformedStepRepository)
    modality_worklist.Worklist(*repositories, WorklistSettings(keep_days=keep_days)).step()


def keys(step: dict[str, Any] | None = None, **top: Any) -> Dataset:
    """An identifier; what is returned of each entry names it."""
    item = dataset(**({"ScheduledProcedureStepID": None} | (step or {})))
    return dataset(**({"PatientID": None} | top), ScheduledProcedureStepSequence=[item])


def asked(node: Acceptor, ds: Dataset, syntax: str = ExplicitVRLittleEndian, called: str = "ANY-SCP") -> Any:
    ae = AE("GOOD")
    ae.requested_contexts = [build_context(MODALITY_WORKLIST_FIND, syntax)]
    assoc = ae.associate(node.host, node.port, ae_title=called)
    assert assoc.is_established
    responses = list(assoc.send_c_find(ds, MODALITY_WORKLIST_FIND))
    assoc.release()
    return responses


def found(node: Acceptor, ds: Dataset, **options: Any) -> list[Dataset]:
    *answers, (final, _) = asked(node, ds, **options)
    assert final.Status == 0
    return [answer for _, answer in answers]


def ids(node: Acceptor, ds: Dataset, **options: Any) -> list[str]:
    """The patients that are answered."""
    return sorted(str(answer.PatientID) for answer in found(node, ds, **options))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_an_entry_is_answered_with_what_was_asked_for(node: Running, syntax: str) -> None:
    plan(node, entry(1, PatientName="Müller^Jörg=山田^太郎", PregnancyStatus=1))
    asked_for = keys(
        {"Modality": "CT", "ScheduledProtocolCodeSequence": None, "ScheduledStationName": None},
        PatientName="muller*", AccessionNumber="", PregnancyStatus=None, ReferencedStudySequence=None,
    )  # fmt: skip
    [answer] = found(node, asked_for, syntax=syntax)
    [step] = answer.ScheduledProcedureStepSequence
    [code] = step.ScheduledProtocolCodeSequence
    assert (str(answer.PatientName), answer.AccessionNumber, answer.PregnancyStatus) == (
        "Müller^Jörg=山田^太郎",
        "A1",
        1,
    )
    assert (step.Modality, code.CodeMeaning, step.ScheduledStationName) == ("CT", "Chest", "")
    assert len(answer.ReferencedStudySequence) == 0
    assert answer.SpecificCharacterSet == "ISO_IR 192"
    assert "RequestedProcedureID" not in answer
    for terms, answered in ((["ISO 2022 IR 100", "ISO 2022 IR 87"],) * 2, (["ISO_IR 100"], "ISO_IR 192")):
        asked_for.SpecificCharacterSet = terms
        [answer] = found(node, asked_for, syntax=syntax)
        assert (answer.SpecificCharacterSet, str(answer.PatientName)) == (answered, "Müller^Jörg=山田^太郎")


STEP_QUERIES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"ScheduledProcedureStepStartDate": "20261121"}, {}),
    ({"ScheduledProcedureStepStartDate": "20261122-"}, {}),
    ({"ScheduledProcedureStepStartDate": "20261120-20261121"}, {}),
    ({"ScheduledProcedureStepStartDate": "-20261121"}, {}),
    ({"ScheduledProcedureStepStartTime": "1000-1200"}, {}),
    ({"ScheduledProcedureStepStartDate": "20261121", "ScheduledProcedureStepStartTime": "-1014"}, {}),
    ({"ScheduledProcedureStepStartDate": "20261120-20261122", "ScheduledProcedureStepStartTime": "1000-1014"}, {}),
    ({"ScheduledProcedureStepStartDate": "20261119-20261121", "ScheduledProcedureStepStartTime": "1016-0930"}, {}),
    ({"ScheduledProcedureStepStartDate": "20261121-", "ScheduledProcedureStepStartTime": "1000-"}, {}),
    ({"Modality": "MR"}, {}),
    ({"ScheduledStationAETitle": "CT2"}, {}),
    ({"ScheduledPerformingPhysicianName": "Cur*"}, {}),
    ({"Modality": "CT", "ScheduledStationAETitle": "CT2"}, {}),
    ({}, {"PatientName": "Doe*"}),
    ({}, {"PatientName": "?oe^J*"}),
    ({}, {"PatientID": "P3"}),
    ({}, {"AccessionNumber": "A2"}),
    ({}, {"RequestedProcedureID": "R4"}),
    ({}, {"RequestedProcedureID": "R*"}),
    ({}, {"ReferringPhysicianName": "Who^D*"}),
    ({}, {"PatientID": "nobody"}),
]
"""Step keys and other keys. DCMTK matches the same ones."""

ENTRIES = [
    entry(1),
    entry(2, ScheduledStationAETitle="CT2", ScheduledProcedureStepStartTime="090000", PatientName="Doe^John"),
    entry(3, Modality="MR", ScheduledStationAETitle="MR1", ScheduledProcedureStepStartDate="20261122"),
    entry(
        4, PatientName="Roe^Richard", ScheduledProcedureStepStartDate="20261119", ScheduledPerformingPhysicianName="X"
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as DCMTK's worklist has it: one below for each AE title."""
    folder = tmp_path_factory.mktemp("worklists") / "WORKLIST"
    folder.mkdir()
    (folder / "lockfile").touch()
    for number, ds in enumerate(ENTRIES):
        ds.file_meta = dataset_meta()
        dcmwrite(folder / f"{number}.wl", ds, enforce_file_format=True)
    return folder


def dataset_meta() -> Any:
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MODALITY_WORKLIST_FIND, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


class Wlmscpfs:
    """DCMTK's worklist as an acceptor."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.host, self.port = free.getsockname()
        command = [DCMTK / "wlmscpfs", "--single-process", "-dfp", str(folder.parent), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((self.host, self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("wlmscpfs does not listen")


@pytest.fixture(scope="module")
def oracle(files: Path) -> Iterator[Wlmscpfs]:
    if not (DCMTK / "wlmscpfs").exists():
        pytest.skip("wlmscpfs is not installed")
    running = Wlmscpfs(files)
    yield running
    running.process.terminate()
    running.process.wait(10)


@pytest.mark.slow
@pytest.mark.peer
def test_the_same_entries_match_as_in_dcmtks_worklist(start_node: StartNode, files: Path, oracle: Wlmscpfs) -> None:
    node = start_node(worklist=WorklistSettings(folder=files))
    different = {}
    for step, top in STEP_QUERIES:
        ours, theirs = ids(node, keys(step, **top)), ids(oracle, keys(step, **top), called="WORKLIST")
        if ours != theirs:
            different[str((step, top))] = (ours, theirs)
    assert different == {}
    assert ids(node, keys()) == ["P1", "P2", "P3", "P4"]


def test_entries_follow_the_files_of_the_folder(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modality_worklist, "SCAN_SECONDS", 0.0)
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "one.json").write_text(entry(1).to_json())
    (folder / "two.json").write_text("[" + entry(2).to_json() + "]")
    (folder / "three.wl").write_bytes(b"no DICOM")
    (folder / "four.txt").write_text("not looked at")
    node = start_node(worklist=WorklistSettings(folder=folder))
    assert ids(node, keys()) == ["P1", "P2"]
    (folder / "one.json").write_text(entry(11).to_json())
    (folder / "two.json").unlink()
    for number, text in enumerate(("{", "[]", "[" * 100_000, '{"00100010": {"vr": "PN", "Value": [3]}}', "{}")):
        (folder / f"bad{number}.json").write_text(text)
    assert ids(node, keys()) == ["P11"]
    os.replace(folder, tmp_path / "elsewhere")
    assert ids(node, keys()) == ["P11"]  # as long as it is not known to be empty
    os.replace(tmp_path / "elsewhere", folder)
    shutil.copy(folder / "one.json", folder / "same.json")
    assert ids(node, keys()) == ["P11", "P11"]


def test_a_range_of_dates_and_one_of_times_are_one_period(node: Running) -> None:
    starts = ("20270706", "05"), ("20270705", "09"), ("20270705", "11"), ("20270707", "19"), ("20270707", "1759")
    plan(node, *(
        entry(number, ScheduledProcedureStepStartDate=date, ScheduledProcedureStepStartTime=f"{time:0<6}")
        for number, (date, time) in enumerate(starts, 1)
    ))  # fmt: skip

    def between(dates: str, times: str) -> list[str]:
        asked_for = {"ScheduledProcedureStepStartDate": dates, "ScheduledProcedureStepStartTime": times}
        return sorted(ids(node, keys(asked_for)))

    assert between("20270705-20270707", "1000-1800") == ["P1", "P3", "P5"]
    assert between("20270705-20270706", "1800-0600") == ["P1"]  # the times alone would cross midnight
    assert between("20270706-", "1800-") == ["P4", "P5"]
    assert between("20270705", "1000-1800") == ["P3"]
    assert between("20270706-", "1000-1800") == ["P5"]  # of other forms: each day


def test_a_step_that_is_over_is_not_given_to_modalities(node: Running) -> None:
    plan(node, entry(1), entry(2), entry(3))
    for study, state in (("1.2.1", "completed"), ("1.2.2", "in-progress")):
        changed = "UPDATE scheduled_steps SET state = :state WHERE study_instance_uid = :study"
        write_rows(node.ingest.index.root, changed, state=state, study=study)
    status = {"ScheduledProcedureStepStatus": None}
    answers = {answer.PatientID: answer.ScheduledProcedureStepSequence[0] for answer in found(node, keys(status))}
    assert {patient: step.ScheduledProcedureStepStatus for patient, step in answers.items()} == {
        "P2": "STARTED", "P3": ""
    }  # fmt: skip


def test_entries_are_removed_some_days_after_their_start(node: Running) -> None:
    today = dt.datetime.now(dt.UTC).date()
    old, new = (f"{today - dt.timedelta(days=days):%Y%m%d}" for days in (32, 29))
    plan(node, entry(1, ScheduledProcedureStepStartDate=old), entry(2, ScheduledProcedureStepStartDate=new))
    look_at_the_worklist(node, keep_days=30)
    assert ids(node, keys()) == ["P2"]


@pytest.mark.parametrize(
    ("step", "top", "offending"),
    [
        ({"ScheduledProcedureStepStartDate": "tomorrow"}, {}, 0x00400002),
        ({"ScheduledProcedureStepStartDate": "20261122-20261121"}, {}, 0x00400002),
        ({"ScheduledProcedureStepStartTime": "25"}, {}, 0x00400003),
        ({}, {"StudyInstanceUID": "1.2.*"}, 0x0020000D),
        ({}, {"ReferencedStudySequence": [Dataset(), Dataset()]}, 0x00081110),
    ],
)  # fmt: skip
def test_a_key_that_breaks_a_rule_is_named(
    node: Running, step: dict[str, Any], top: dict[str, Any], offending: int
) -> None:
    plan(node, entry(1))
    [(final, _)] = asked(node, keys(step, **top))
    assert (final.Status, final.OffendingElement) == (0xC000, offending)


def test_keys_that_are_not_supported_restrict_nothing(node: Running) -> None:
    plan(node, entry(1))
    ds = keys({}, PatientWeight="80")
    ds.add_new(0x00091001, "LO", "private")
    (status, answer), (final, _) = asked(node, ds)
    assert (status.Status, answer.PatientID, final.Status) == (PENDING_WITHOUT_KEYS, "P1", 0)


def test_deep_and_wide_identifiers_are_refused_in_words(node: Running) -> None:
    deep = Dataset()
    for _ in range(50):
        deep = dataset(ScheduledProcedureStepSequence=[deep])
    [(final, _)] = asked(node, deep)
    assert (final.Status, "nested" in final.ErrorComment) == (0xC000, True)
    [(final, _)] = asked(node, keys({}, PatientID="\\".join(f"*{number}*" for number in range(200))))
    assert (final.Status, "100 values" in final.ErrorComment) == (0xC000, True)


@pytest.mark.slow
def test_more_answers_than_allowed_are_refused(start_node: StartNode) -> None:
    node = start_node(maximum_query_results=100)
    plan(node, *(entry(number) for number in range(101)))
    *_, (final, _) = asked(node, keys())
    assert final.Status == 0xA700
    assert len(found(node, keys({}, PatientID="P1*"))) == 12


@pytest.mark.parametrize(
    ("right", "service"), [("query", MODALITY_WORKLIST_FIND), ("worklist", PERFORMED_PROCEDURE_STEP)]
)
def test_only_a_peer_with_the_right_may_ask(start_node: StartNode, right: str, service: str) -> None:
    node = start_node(peers={"ct": Peer(ae_title="GOOD", may=("store", right))})
    assoc = associate(node, build_context(service))
    assert not assoc.accepted_contexts
    assoc.abort()
    assert node.settled()


def test_a_query_of_the_worklist_is_audited(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(audit=Audit(tmp_path, "VOXELNODE"))
    plan(node, entry(1))
    assert ids(node, keys({}, PatientName="Doe*")) == ["P1"]
    lines = (tmp_path / "audit.jsonl").read_text()
    assert '"PatientName": "Doe*"' in lines
    assert MODALITY_WORKLIST_FIND in lines


def test_a_node_without_an_extension_does_not_support_its_services(start_node: StartNode) -> None:
    syntaxes = MODALITY_WORKLIST_FIND, PERFORMED_PROCEDURE_STEP, VERIFICATION
    for disabled, results in (((), [0, 0, 0]), (("worklist",), [3, 3, 0])):  # 3: abstract syntax not supported
        assoc = associate(start_node(disabled=disabled), *map(build_context, syntaxes))
        answered = {one.abstract_syntax: one.result for one in (*assoc.accepted_contexts, *assoc.rejected_contexts)}
        assert [answered[syntax] for syntax in syntaxes] == results
        assoc.release()
