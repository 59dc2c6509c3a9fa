"""What every background service can rely on: when its steps come, and what becomes of one that fails."""

import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from structlog.testing import capture_logs

from node.errors import OutOfResources
from node.runtime import background
from node.runtime.background import BackgroundService, SupervisedThread

DEADLINE_SECONDS = 20.0

Start = Callable[..., "Recorded"]


class Recorded(BackgroundService):
    """Answers step after step with what a test gives, and then sleeps."""

    def __init__(self, *answers: float | BaseException | None) -> None:
        super().__init__("recorded")
        self._answers = list(answers)
        self.moments: list[float] = []
        self.closed_by: list[str] = []
        self._stepped = threading.Condition()

    def step(self) -> float | None:
        answer = self._answers.pop(0) if self._answers else None
        with self._stepped:
            self.moments.append(monotonic())
            self._stepped.notify_all()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _close(self) -> None:
        self.closed_by.append(threading.current_thread().name)

    def wait_for(self, steps: int) -> None:
        with self._stepped:
            assert self._stepped.wait_for(lambda: len(self.moments) >= steps, DEADLINE_SECONDS), self.moments


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a service that answers so; pauses after failures are short."""
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.01)
    started: list[Recorded] = []

    def begin(*answers: float | BaseException | None) -> Recorded:
        started.append(Recorded(*answers))
        started[-1].start()
        return started[-1]

    yield begin
    for service in started:
        service.stop(DEADLINE_SECONDS)


def test_the_first_step_comes_at_once_and_no_other_until_the_service_is_woken(start: Start) -> None:
    service = start(None, None)
    service.wait_for(1)
    service._thread.join(0.3)
    assert service.steps == 1
    service.wake()
    service.wait_for(2)


def test_a_step_comes_when_the_last_one_asked_for_it(start: Start) -> None:
    service = start(0.2, 0.0, None)
    service.wait_for(3)
    first, second, third = service.moments
    assert second - first >= 0.2
    assert third - second < 0.2


def test_wake_ups_that_may_wait_give_one_step_together(start: Start) -> None:
    service = start(None)
    service.wait_for(1)
    began = monotonic()
    for _ in range(1000):
        service.wake(0.3)
    service.wait_for(2)
    assert service.moments[1] - began >= 0.3
    service._thread.join(0.4)
    assert service.steps == 2


def test_a_later_wake_up_does_not_put_off_an_earlier_one(start: Start) -> None:
    service = start(0.1, None)
    service.wait_for(1)
    service.wake(3600)
    service.wait_for(2)


def test_a_wake_up_during_a_step_is_not_lost(start: Start) -> None:
    class Woken(Recorded):
        def step(self) -> float | None:
            if self.steps == 1:
                self.wake()
            return super().step()

    service = Woken()
    service.start()
    service.wait_for(2)
    service.stop(DEADLINE_SECONDS)
    assert service.steps == 2


def test_a_step_that_fails_is_logged_once_with_its_place_and_made_again(start: Start) -> None:
    with capture_logs() as lines:
        service = start(*[ValueError("Nemo^Captain")] * 3, OSError("another"), None)
        service.wait_for(5)
        service.stop(DEADLINE_SECONDS)
    reported = [(line["event"], line.get("reason", "").partition(",")[0], line.get("failed")) for line in lines]
    assert reported == [
        ("service_failed", "ValueError at step", None),
        ("service_failed", "OSError at step", None),
        ("service_recovered", "", 4),
    ]
    assert not any("Nemo" in str(line) for line in lines)


def test_pauses_after_failures_grow(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.05)
    service = start(*[ValueError()] * 3, None)
    service.wait_for(4)
    pauses = [after - before for before, after in zip(service.moments, service.moments[1:], strict=False)]
    assert pauses[0] >= 0.05
    assert pauses[1] >= 0.1
    assert pauses[2] >= 0.2


def test_wake_ups_do_not_cut_a_pause_short(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.3)
    service = start(ValueError(), None)
    service.wait_for(1)
    for _ in range(100):
        service.wake()
    service.wait_for(2)
    assert service.moments[1] - service.moments[0] >= 0.3


@pytest.mark.parametrize("answer", [None, 3600.0, ValueError()])
def test_a_stop_waits_for_no_deadline_and_closes_on_the_thread_of_the_service(start: Start, answer: Any) -> None:
    service = start(answer)
    service.wait_for(1)
    assert service.is_alive
    service.stop(DEADLINE_SECONDS)
    assert not service.is_alive
    assert service.closed_by == ["recorded"]
    service.stop()  # once more is no error


def test_a_service_that_never_began_can_be_stopped() -> None:
    service = Recorded()
    service.stop()
    assert not service.is_alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_service_whose_thread_ends_is_not_alive(start: Start) -> None:
    service = start(SystemExit())
    service._thread.join(DEADLINE_SECONDS)
    assert not service.is_alive


def test_a_service_that_fails_again_and_again_is_in_trouble_and_every_failure_counts(start: Start) -> None:
    service = start(*[ValueError("Nemo^Captain")] * 3, 3600.0)
    service.wait_for(4)
    assert service.failures == 3
    service._stopping.wait(0.05)
    assert service.trouble is None
    service = start(*[ValueError("Nemo^Captain")] * 1000)
    service.wait_for(4)
    assert service.is_alive
    trouble = service.trouble or ""
    assert "failed" in trouble
    assert "ValueError at step" in trouble
    assert "Nemo" not in trouble


def test_a_thread_whose_function_raises_calls_it_again_until_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.01)
    outcomes: list[Exception | None] = [MemoryError(), OSError(11, "no thread"), None]

    def run() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    thread = SupervisedThread("listener", run)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    assert outcomes == []
    assert thread.failures == 2
    assert thread.trouble == "has stopped: see the log"


def test_a_service_survives_a_log_that_cannot_be_written(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **values: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(background.log, "exception", full, raising=False)
    service = start(ValueError(), None)
    service.wait_for(2)
    assert service.is_alive


def test_a_failure_that_an_error_of_ours_explains_is_told_in_its_words() -> None:
    thread = SupervisedThread("worker", lambda: None)
    thread._stopping.set()
    thread.failed(OutOfResources("the index did not commit: another program has locked it"))
    assert thread.last_failure == "the index did not commit: another program has locked it"
