"""A hook with `fhir`: quiet studies as updates of a FHIR server, whose other side is a real HTTP server."""

from __future__ import annotations

import datetime as dt
import json
import threading
from pathlib import Path

import pytest
from fhir.resources.imagingstudy import ImagingStudy

from node.audit.audit_log import Audit
from node.conversion.pipeline import convert
from node.errors import UsageError
from node.index.work.ledger import Lane
from node.metrics import Metrics
from node.notify.channel import NotDelivered, hook_channel
from node.notify.message import HookMessage
from node.notify.notifier import HookWorker
from node.receive.ingest import Origin
from node.settings.convert import Convert
from node.settings.model import HookSettings, Settings
from node.writers.options import write_options
from tests import make
from tests.converting import convert_series
from tests.integration.conftest import Root
from tests.receivers import Answer, Receiver
from tests.rows import view_rows

OPTIONS = write_options(Convert(thumbnails=False, formats=("nifti",)))
STUDY = "1.2.3"


def settings_of(receiver: Receiver, tmp_path: Path) -> Settings:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    hook = HookSettings(on=("study-quiet",), fhir=f"{receiver.url}/", token_file=token)  # type: ignore[arg-type]
    return Settings(hooks={"ehr": hook}, web={"public_url": "https://pacs.example.org"})  # type: ignore[arg-type]


def become_quiet(root: Root) -> None:
    root.clock.move(61)
    while (claimed := root.index.series.claim_due(root.clock())) is not None:
        convert_series(claimed, root.archive, root.index, OPTIONS, convert, root.clock)
    root.clock.move(1000)
    root.index.studies.mark_quiet(dt.timedelta(seconds=900), root.clock())


@pytest.mark.slow
def test_a_quiet_study_is_put_again_until_the_server_has_it(root: Root, tmp_path: Path) -> None:
    statuses = iter([503, 201, 200, 422])
    with Receiver(lambda received: Answer(next(statuses))) as receiver:
        settings = settings_of(receiver, tmp_path)
        channel, audit = hook_channel(settings, "ehr", root.index), Audit(root.folder, "VOXELNODE", now=root.clock)
        root.index.deliveries.begin("hook", {Lane("hook", "ehr"): False})
        hook = HookWorker(
            "ehr", settings.hooks["ehr"], channel, root.index, Metrics(), audit, "VOXELNODE", root.results, root.clock
        )
        for number in (1, 2, 3):  # the study grows, and each time it is put whole
            ds = make.structured_report(
                study_uid=STUDY, series_uid=f"1.2.3.{number}", PatientID="P1", PatientName="Doe^Jane"
            )
            root.take(ds, Origin("dicom", "CT1", "VOXELNODE", "127.0.0.1:1"))
            become_quiet(root)
            hook.work()
            root.clock.move(60)
            hook.work()
        channel.close()
        audit.close()
    assert [one.request for one in receiver.received] == [f"PUT /told/ImagingStudy/{STUDY}"] * 4
    resources = [ImagingStudy.model_validate_json(one.body) for one in receiver.received]
    assert [resource.numberOfSeries for resource in resources] == [1, 1, 2, 3]
    assert {resource.id for resource in resources} == {STUDY}
    assert resources[0].contained[0].address == "https://pacs.example.org/dicom-web"
    assert receiver.received[0].headers["authorization"] == "Bearer s3cret"
    assert receiver.received[0].headers["accept-encoding"] == "identity"
    assert receiver.received[0].headers["content-type"].startswith("application/fhir+json")
    [given_up] = view_rows(root.folder, "SELECT reason FROM v_deliveries WHERE state = 'given-up'")
    assert "422" in given_up["reason"]
    exports = [json.loads(line) for line in (root.folder / "audit.jsonl").read_text().splitlines()]
    assert [(line["outcome"], line["objects"][0]["patient_id"]) for line in exports] == [
        (4, "P1"), (0, "P1"), (0, "P1"), (4, "P1"),
    ]  # fmt: skip


def test_a_test_message_only_asks_what_the_server_can_do(tmp_path: Path) -> None:
    with Receiver(lambda received: Answer(401)) as receiver:
        settings = settings_of(receiver, tmp_path)
        channel = hook_channel(settings, "ehr")
        message = HookMessage({"test": True, "study_instance_uid": STUDY})
        with pytest.raises(NotDelivered, match="401: check the token"):
            channel.deliver(message, threading.Event())
        channel.close()
    assert [one.request for one in receiver.received] == ["GET /told/metadata"]
    (tmp_path / "token").unlink()
    with pytest.raises(UsageError, match=r"\[hooks.ehr\] token_file .* cannot be read"):
        hook_channel(settings, "ehr")
