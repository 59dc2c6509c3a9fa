"""What grows has an end: events and deletions of long ago go, unless something still needs them."""

import datetime as dt
import re
from pathlib import Path

import pytest
from sqlalchemy import func, select

from node.api import Audit, Settings
from node.index.rows.about_keys import Uptime
from node.index.rows.extension_tables import every_table
from node.index.rows.models.history import TombstoneRow
from node.index.rows.records import Lane
from node.index.rules.custody import leaving
from node.index.rules.custody.leaving import HISTORY_TIME
from node.index.rules.work.events import record_event
from node.index.rules.work.messages import PendingEvent
from node.lifecycle.retention import Retention
from node.receive.ingest import Origin
from node.runtime.metrics import Metrics
from tests import make
from tests.integration.conftest import Clock, Root
from tests.integration.test_trash import DAY, bring_back, owed, trash
from tests.rows import read_rows, write_rows

pytestmark = pytest.mark.postgresql

HOOK = Lane("hook", "new")


@pytest.fixture
def root(root: Root, monkeypatch: pytest.MonkeyPatch) -> Root:
    """A root that keeps little beyond what it needs, and whose deletions know the ledger."""
    monkeypatch.setattr(leaving, "HISTORIES", dict.fromkeys(leaving.HISTORIES, 1))
    monkeypatch.setattr(leaving, "MAX_EXAMINED", 3)
    root.index.ahead = root.ingest.applier
    return root


def origin(association: str) -> Origin:
    return Origin("dicom", "CT1", "VOXELNODE", "127.0.0.1:1", association)


def taken(root: Root, *, is_converted: bool = False) -> str:
    """A series; its study."""
    series = make.ct_series(3)
    root.take_all(series, origin(""))
    if is_converted:
        root.convert_due()
    root.ingest.applier.checkpoint()
    return str(series[0].StudyInstanceUID)


def pass_over(root: Root, audit: Audit, days: float = HISTORY_TIME / dt.timedelta(days=1) + 1) -> None:
    """Let time pass, and the service of a node examine all rows."""
    root.clock.move(days * DAY)
    up = lambda: Uptime("boot", (root.clock() - Clock().moment).total_seconds())  # noqa: E731
    service = Retention(root.archive, root.index, audit, Metrics(), Settings(), root.clock, up)
    service.step()
    while service._pruned:
        service.step()


def events(root: Root, study: str) -> list[str]:
    found = root.rows("SELECT kind FROM v_events WHERE study_instance_uid = :study ORDER BY id", study=study)
    return [row["kind"] for row in found]


def happens(root: Root) -> None:
    """An event that is newer than all others: nothing of what they are about is kept for being the newest."""
    root.index._writer.run(lambda connection: record_event(connection, "journal-damaged", root.clock(), detail="one"))


def test_of_what_is_here_the_newest_event_of_each_kind_stays_and_a_hook_that_is_new_gets_it(
    root: Root, audit: Audit
) -> None:
    study, gone = (taken(root, is_converted=True) for _ in range(2))
    [row] = root.rows("SELECT series_instance_uid FROM v_series WHERE study_instance_uid = :study", study=study)
    key = study, row["series_instance_uid"]
    root.mark_quiet()
    for _ in range(2):
        root.index.series.reopen([key], root.clock())
        root.convert_due()
        root.mark_quiet()
    root.delete("study", gone)
    happens(root)
    before = events(root, study)
    pass_over(root, audit, 1)
    assert (events(root, study), len(events(root, gone)) > 3) == (before, True), "they are young"
    pass_over(root, audit)
    assert events(root, study) == ["series-quiet", "series-converted", "study-quiet"]
    assert before.count("study-quiet") > 1 < before.count("series-quiet")
    assert events(root, gone) == []
    assert [row["id"] for row in root.rows("SELECT id FROM v_events WHERE kind = 'journal-damaged'")] == [
        root.rows("SELECT max(id) AS id FROM v_events")[0]["id"]
    ]
    root.index.deliveries.begin("hook", {HOOK: ("series-quiet", "volume-written", "study-quiet")})
    asked = ("series-quiet", "volume-written", "study-quiet")
    assert len(root.index.deliveries.replay(HOOK.name, asked, [key], None, root.clock()).queued) == 3  # type: ignore[arg-type]


def test_what_a_subscriber_is_owed_stays_also_while_its_study_is_in_the_trash(root: Root, audit: Audit) -> None:
    root.index.deliveries.begin("hook", {HOOK: ("series-quiet", "volume-written")})
    study, trashed = (taken(root, is_converted=True) for _ in range(2))
    rows = root.rows("SELECT study_instance_uid, series_instance_uid FROM v_series")
    root.index.series.reopen([(row["study_instance_uid"], row["series_instance_uid"]) for row in rows], root.clock())
    root.convert_due()

    def new() -> tuple[PendingEvent, ...]:
        return root.index.deliveries.work(HOOK, ("series-quiet", "volume-written"), root.clock()).new

    before = new()
    assert [one.study_instance_uid for one in before].count(study) == 4, "two of each kind"
    number = trash(root, "study", trashed, days=1000)
    root.index.deliveries.record(HOOK, [], [one for one in before if one.study_instance_uid == trashed], root.clock())
    happens(root)
    pass_over(root, audit)
    bring_back(root, audit, number)
    assert new() == before
    [count] = read_rows(
        root.folder, "SELECT count(*) AS n FROM owed_events WHERE event_id NOT IN (SELECT id FROM events)"
    )
    assert count["n"] == 0


@pytest.mark.parametrize("comes_back", [False, True])
def test_the_end_of_an_association_counts_as_long_as_before(root: Root, audit: Audit, comes_back: bool) -> None:
    series = make.ct_series(3)
    root.take_all(series, origin("a1"))
    root.convert_due()
    for association in ("a1", "a2"):
        root.clock.move(60)
        root.take_all(series, origin(association))
        root.end(association, "aborted")
    if comes_back:
        root.clock.move(60)
        root.take_all(series, origin("a3"))
        root.end("a3", "released")
    [before] = root.rows("SELECT verdict, verdict_rule FROM v_series")
    assert (before["verdict_rule"] == "association") is not comes_back
    happens(root)
    pass_over(root, audit)
    kinds = [row["kind"] for row in root.rows("SELECT kind FROM v_events WHERE kind LIKE 'sender-%'")]
    assert kinds == ["sender-aborted", *["sender-returned"] * comes_back]
    root.index.series.reopen([(series[0].StudyInstanceUID, series[0].SeriesInstanceUID)], root.clock())
    root.convert_due()
    assert root.rows("SELECT verdict, verdict_rule FROM v_series") == [before]


def test_an_end_within_an_instance_counts_when_the_sender_is_known_never_to_release(root: Root, audit: Audit) -> None:
    series = make.ct_series(3)
    for association, is_cut in (("a1", True), ("a2", False)):
        root.take_all(series, origin(association))
        root.end(association, "aborted", is_cut=is_cut)
        root.clock.move(1000)
        root.convert_due()
    happens(root)
    pass_over(root, audit)
    root.index.associations.forget_ends(["CT1"], root.clock())
    [verdict] = root.rows("SELECT verdict_rule FROM v_series")
    assert verdict["verdict_rule"] == "association"


def test_the_reason_of_a_file_in_quarantine_stays_until_the_file_goes(root: Root, audit: Audit) -> None:
    root.index.instances.set_aside("the index does not take it", "quarantine/one.dcm", None, root.clock())
    happens(root)
    pass_over(root, audit)
    with root.index.reading() as index:
        assert [row["key"] for row in index.events.set_aside()] == ["quarantine/one.dcm"]
    root.index.instances.record_removed_from_quarantine("quarantine/one.dcm", "quarantine-purged", "ann", root.clock())
    pass_over(root, audit)
    assert not root.rows("SELECT id FROM v_events WHERE kind = 'instance-set-aside'")


def test_deletions_of_long_ago_go_and_what_was_deleted_is_neither_lost_nor_here(root: Root, audit: Audit) -> None:
    gone, restored, trashed, emptied, other, newest = (taken(root) for _ in range(6))
    root.delete("study", gone)
    bring_back(root, audit, trash(root, "study", restored))
    trash(root, "study", emptied, days=1)
    trash(root, "study", trashed, days=1000)
    root.delete("study", other)
    write_rows(root.folder, "UPDATE tombstones SET listed = 'another:9' WHERE uid = :uid", uid=other)
    root.delete("study", newest)
    pass_over(root, audit, 2)  # the trash of one is emptied
    assert len(root.rows("SELECT * FROM v_deletions")) == 6
    pass_over(root, audit)
    left = {row["uid"] for row in root.rows("SELECT uid FROM v_deletions")}
    assert left == {restored, trashed, other, newest}, "a ledger in which it is not written off would miss the other"
    assert owed(root) == set()


def test_while_the_store_has_what_was_deleted_its_deletion_stays(root: Root, audit: Audit) -> None:
    root.delete("study", taken(root))
    root.delete("study", taken(root))
    write_rows(root.folder, "INSERT INTO object_removals VALUES ('objects/1/a.dcm', '2026-01-01 00:00:00')")
    pass_over(root, audit)
    assert len(root.rows("SELECT * FROM v_deletions")) == 2
    write_rows(root.folder, "DELETE FROM object_removals")
    pass_over(root, audit)
    assert len(root.rows("SELECT * FROM v_deletions")) == 1


def test_nothing_goes_by_a_clock_in_doubt(root: Root, audit: Audit) -> None:
    root.delete("study", taken(root))
    root.delete("study", taken(root))
    root.index.retention.hold("a person has to look")
    pass_over(root, audit)
    tombstones = root.index._writer.run(lambda connection: connection.scalar(select(func.count(TombstoneRow.id))))
    assert tombstones == 2


def test_the_document_says_of_every_table_when_its_rows_go() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    section = text.partition("## When rows go\n")[2].partition("\n## ")[0]
    firsts = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(firsts))) == sorted(every_table())
