"""Senders are asked what they have of a series: over real associations, and in the way of no conversion."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import evt

from node.dicom.uids import STUDY_ROOT_FIND, VERIFICATION
from node.extensions.peers.asking import Asking, Questioner
from node.index.rules.work.ledger import Ended
from node.receive.ingest import Origin
from node.settings.model import Settings
from node.settings.peers import Peer
from tests import make
from tests.integration.conftest import Root
from tests.integration.test_lifecycle import due, events, settle, the_series, verdict
from tests.peers import listening


@dataclass
class Source:
    """A peer that has these instances of every series, and answers a count, a list, both or neither."""

    has: list[str] = field(default_factory=list)
    count: Any = None
    lists: bool = True
    fails: bool = False
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def answer(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        self.asked.append(query.QueryRetrieveLevel)
        if self.fails or (query.QueryRetrieveLevel == "IMAGE" and not self.lists):
            yield 0xC001, None
            return
        if query.QueryRetrieveLevel == "SERIES":
            count = self.count() if callable(self.count) else self.count
            query.NumberOfSeriesRelatedInstances = count
            yield 0xFF00, query
            return
        for uid in self.has:
            query.SOPInstanceUID = uid
            yield 0xFF00, query


@pytest.fixture
def source() -> Iterator[Source]:
    """A source that listens."""
    found = Source()
    with listening("PACS", [(evt.EVT_C_FIND, found.answer)], STUDY_ROOT_FIND) as found.port:
        yield found


@pytest.fixture
def echo_only() -> Iterator[int]:
    """The port of a peer that offers no C-FIND."""
    with listening("PACS", (), VERIFICATION) as port:
        yield port


@dataclass
class Questions:
    """What a node does with questions, one step at a time."""

    root: Root
    questioner: Questioner
    asking: Asking

    def ask(self) -> list[Any]:
        """Put the due questions on the ledger, and do what is due; return what became of it."""
        self.questioner.step()
        index, now = self.root.index, self.root.clock
        outcomes = []
        for work in index.work.due(["question"], now()):
            index.work.begin(work.id, now())
            decision = self.asking.perform(work, threading.Event())
            index.work.record(work.id, decision, now())
            outcomes.append(decision.outcome if isinstance(decision, Ended) else "again")
        return outcomes


Asked = Callable[..., Questions]


@pytest.fixture
def asked(root: Root, source: Source) -> Asked:
    """The questions of a node to the source; `is_early` is its `confirm_by_find`."""

    def questions(port: int = 0, *, is_early: bool = False) -> Questions:
        peer = Peer(ae_title="PACS", host="127.0.0.1", port=port or source.port, confirm_by_find=is_early or None)
        settings = Settings(peers={"pacs": peer})
        early = {"pacs"} if is_early else set()
        return Questions(
            root,
            Questioner(root.index, {"PACS": "pacs"}, early, root.clock),
            Asking(root.index, settings, early, root.clock),
        )

    return questions


def took(root: Root, instances: list[Any], calling_ae_title: str = "PACS") -> list[str]:
    root.take_all(instances, Origin("dicom", calling_ae_title, "VOXELNODE", "127.0.0.1:1", "a1"))
    return [str(ds.SOPInstanceUID) for ds in instances]


@pytest.mark.slow
def test_a_sender_is_asked_once_before_its_series_is_quiet(root: Root, source: Source, asked: Asked) -> None:
    source.has, source.count = took(root, make.ct_series(4)), 4
    questions = asked()
    assert questions.ask() == [], "it is still sending"
    root.clock.move(51)
    assert questions.ask() == ["succeeded"]
    assert questions.ask() == []
    settle(root, 10)
    assert verdict(root) == ("complete", "c-find", 4, 0)
    assert source.asked == ["SERIES"]
    assert events(root) == ["series-confirmed", "series-quiet", "series-converted"]


def test_a_series_that_was_converted_before_anybody_asked_is_asked_about_afterwards(
    root: Root, source: Source, asked: Asked
) -> None:
    whole = make.ct_series(8)
    source.has, source.count = [str(ds.SOPInstanceUID) for ds in whole], 8
    took(root, whole[:4])
    settle(root)
    assert verdict(root) == ("complete", "geometry", None, 0)
    questions = asked()
    assert questions.ask() == ["succeeded"]
    assert verdict(root) == ("incomplete", "c-find", 8, 4)
    assert questions.ask() == []


@pytest.mark.slow
def test_a_loss_at_the_end_is_named(root: Root, source: Source, asked: Asked) -> None:
    whole = make.ct_series(8)
    source.has, source.count = [str(ds.SOPInstanceUID) for ds in whole], 8
    took(root, whole[:4])
    root.clock.move(51)
    asked().ask()
    settle(root, 10)
    assert verdict(root) == ("incomplete", "c-find", 8, 4)
    assert source.has[7] in the_series(root)["verdict_reason"]
    took(root, whole[4:])
    root.clock.move(51)
    asked().ask()
    settle(root, 10)
    assert verdict(root) == ("complete", "c-find", 8, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "has", "lists", "expected"),
    [
        (8, 8, False, ("suspect", "c-find", 8, 4)),
        (None, 8, True, ("incomplete", "c-find", 8, 4)),
        (None, 4, True, ("complete", "c-find", 4, 0)),
        (None, 2, True, ("complete", "geometry", None, 0)),
        (2, 2, True, ("complete", "geometry", None, 0)),
        (9, 4, True, ("complete", "c-find", 4, 0)),
        (9, 2, True, ("suspect", "c-find", 9, 5)),
    ],
)
def test_a_count_is_believed_only_with_a_list(
    root: Root, source: Source, asked: Asked, count: int | None, has: int, lists: bool, expected: tuple[Any, ...]
) -> None:
    whole = make.ct_series(8)
    source.has, source.count, source.lists = [str(ds.SOPInstanceUID) for ds in whole[:has]], count, lists
    took(root, whole[:4])
    root.clock.move(51)
    asked().ask()
    settle(root, 10)
    assert verdict(root) == expected


@pytest.mark.slow
def test_an_answer_about_other_instances_counts_nothing(root: Root, source: Source, asked: Asked) -> None:
    first, *rest = make.ct_series(4)
    took(root, [first])
    source.count = lambda: took(root, rest) and 1  # the others come while it answers
    root.clock.move(51)
    asked().ask()
    settle(root)
    assert verdict(root) == ("complete", "geometry", None, 0)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fails", "is not there", "offers none"])
def test_a_sender_that_does_not_answer_delays_nothing_and_is_left_alone(
    root: Root, source: Source, echo_only: int, asked: Asked, how: str
) -> None:
    source.fails = True
    questions = asked({"fails": 0, "is not there": 1, "offers none": echo_only}[how])
    failed = ["failed"] if how == "offers none" else ["again"]
    took(root, make.ct_series(4))
    root.clock.move(51)
    assert questions.ask() == failed
    settle(root, 10)
    assert verdict(root) == ("complete", "geometry", None, 0)
    assert the_series(root)["verdict_reason"].endswith("; the sender does not answer C-FIND")
    for hours, outcomes in ((0, []), (1, [] if how == "offers none" else failed), (24, failed)):
        root.clock.move(31)
        assert questions.ask() == (["failed"] if failed == ["again"] else [])
        root.clock.move(3600 * hours)
        took(root, make.ct_series(2))
        root.clock.move(51)
        assert questions.ask() == outcomes
        settle(root, 10)
        failed = outcomes
    assert len(source.asked) == (5 if how == "fails" else 0)


@pytest.mark.slow
def test_a_sender_that_was_busy_once_is_asked_again(root: Root, source: Source, asked: Asked) -> None:
    source.fails = True
    questions = asked()
    source.has, source.count = took(root, make.ct_series(4)), 4
    root.clock.move(51)
    assert questions.ask() == ["again"]
    settle(root, 10)
    source.fails = False
    root.clock.move(31)
    assert questions.ask() == ["succeeded"]
    assert verdict(root) == ("complete", "c-find", 4, 0)


def test_only_senders_with_an_address_are_asked(root: Root, source: Source, asked: Asked) -> None:
    took(root, make.ct_series(2), "OTHER")
    root.clock.move(51)
    assert asked().ask() == []
    assert not Peer(ae_title="OTHER").is_asked
    assert not Peer(ae_title="OTHER", host="127.0.0.1", confirm_by_find=False).is_asked


def test_a_count_reported_twice_and_reached_makes_a_series_due_at_once_where_that_is_wanted(
    root: Root, source: Source, asked: Asked
) -> None:
    source.count = 4
    took(root, make.ct_series(4))
    questions = asked(is_early=True)
    assert questions.ask() == ["again"]
    assert due(root) is None, "a count that came once may still grow"
    root.clock.move(3)
    assert questions.ask() == ["succeeded"]
    settle(root, 0)
    assert verdict(root) == ("complete", "c-find", 4, 0)
    assert events(root) == ["series-confirmed", "series-quiet", "series-converted"]


@pytest.mark.slow
def test_a_count_that_grows_or_is_not_reached_makes_nothing_due(root: Root, source: Source, asked: Asked) -> None:
    counts = iter((4, 5, 6, 6, 6))
    whole = make.ct_series(6)
    source.count, source.has = lambda: next(counts), [str(ds.SOPInstanceUID) for ds in whole]
    took(root, whole[:4])
    questions = asked(is_early=True)
    for _ in range(4):
        assert questions.ask() == ["again"]
        root.clock.move(3)
    assert due(root) is None
    root.clock.move(46)
    assert questions.ask() == ["succeeded"]
    settle(root, 10)
    assert verdict(root) == ("incomplete", "c-find", 6, 2)
