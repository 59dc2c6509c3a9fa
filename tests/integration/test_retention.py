"""Retention on a real root: what goes, what a dry run leaves, and what stops it."""

from __future__ import annotations

from typing import Any

import pytest

from node.audit.audit_log import Audit, AuditFailed
from node.conversion.pipeline import convert
from node.lifecycle.retention import Retention
from node.receive.ingest import Origin
from node.settings.convert import Convert
from node.settings.model import RetentionSettings
from node.writers.options import write_options
from tests import make
from tests.converting import convert_series
from tests.integration.conftest import Root
from tests.rows import view_rows

OPTIONS = write_options(Convert(thumbnails=False))
DAY = 86400


def retention(root: Root, **rules: Any) -> Retention:
    audit = Audit(root.folder, "VOXELNODE", now=root.clock)
    return Retention(root.archive, root.index, audit, RetentionSettings(**rules), root.clock)


def take_study(root: Root, title: str = "CT1", **attributes: Any) -> str:
    instances = make.ct_series(3, **attributes)
    for ds in instances:
        root.take(ds, Origin("dicom", title, "VOXELNODE", "127.0.0.1:1"))
    return str(instances[0].StudyInstanceUID)


def convert_due(root: Root) -> None:
    root.clock.move(61)
    while (claimed := root.index.series.claim_due(root.clock())) is not None:
        convert_series(claimed, root.archive, root.index, OPTIONS, convert, root.clock)


def studies(root: Root) -> set[str]:
    return {row["study_instance_uid"] for row in view_rows(root.folder, "SELECT study_instance_uid FROM v_studies")}


def test_old_converted_studies_go_and_leave_a_tombstone(root: Root) -> None:
    old = take_study(root)
    convert_due(root)
    root.clock.move(31 * DAY)
    young = take_study(root)
    assert retention(root, days=30).run_once() == 1
    assert studies(root) == {young}
    [tombstone] = view_rows(root.folder, "SELECT uid, reason FROM v_deletions")
    assert tombstone == {"uid": old, "reason": "retention: older than 30 days"}
    assert '"user": "retention"' in (root.folder / "audit.jsonl").read_text()


def test_a_study_with_a_series_that_waits_stays(root: Root) -> None:
    take_study(root)
    root.clock.move(31 * DAY)
    assert retention(root, days=30).run_once() == 0
    assert retention(root, days=30, only_converted=False).run_once() == 1


def test_a_dry_run_deletes_nothing(root: Root) -> None:
    take_study(root)
    convert_due(root)
    root.clock.move(31 * DAY)
    assert retention(root, days=30, dry_run=True).run_once() == 1
    assert len(studies(root)) == 1


def test_the_sender_of_each_study_is_known(root: Root) -> None:
    short, long = take_study(root, "SHORT"), take_study(root, "LONG")
    convert_due(root)
    root.clock.move(8 * DAY)
    assert retention(root, days_by_calling_ae_title={"SHORT": 7, "LONG": "never"}).run_once() == 1
    assert studies(root) == {long}
    assert short not in studies(root)


def test_without_an_audit_log_nothing_goes(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    take_study(root)
    convert_due(root)
    root.clock.move(31 * DAY)
    passing = retention(root, days=30)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("node.audit.audit_log.os.write", full)
        with pytest.raises(AuditFailed):
            passing.run_once()
    assert len(studies(root)) == 1
