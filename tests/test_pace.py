"""Tests that are slow and not marked fail, and no others."""

from __future__ import annotations

import pytest

from tests import pace
from tests.pace import Span, now

pytest_plugins = ["pytester"]

MACHINE = """
from tests.pace import Pace, Span

moment = late = Span()

def _pass(span):
    global moment
    moment += span

def wait(seconds):
    _pass(Span(seconds))

def compute(seconds):
    _pass(Span(seconds, processor=seconds))

def compute_beside_others(seconds):
    _pass(Span(2 * seconds, (2 * seconds, 0.0, 0.0), seconds))

def be_kept_waiting(seconds, *stalled):
    _pass(Span(seconds, stalled or (seconds, 0.0, 0.0)))

def be_kept_waiting_and_told_later(seconds):
    global late
    late = Span(stalled=(0.0, seconds, 0.0))
    wait(seconds)

def pytest_configure(config):
    for name in ("slow", "long"):
        config.addinivalue_line("markers", name)
    config.pluginmanager.register(Pace(5, lambda: moment, lambda: _pass(late)))
"""
"""A conftest whose tests make the time pass themselves."""

TESTS = """
import pytest
from conftest import *

@pytest.fixture(scope="module", params=[0])
def shared(request):
    wait(request.param)

@pytest.fixture
def own():
    wait(3)

"""


@pytest.fixture
def outcome(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(test: str) -> tuple[str, str]:
        """What becomes of one test, and what is said of it."""
        pytester.makeconftest(MACHINE)
        pytester.makepyfile(TESTS + test)
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
        [(outcome, count)] = result.parseoutcomes().items()
        assert count == 1
        return outcome, result.stdout.str()

    return run


SHARED = '@pytest.mark.parametrize("shared", [{}], indirect=True)\ndef test_it(shared): wait({})'


@pytest.mark.parametrize(
    ("test", "found", "reported"),
    [
        (
            "def test_it(): wait(6)",
            "failed",
            "it took 6.0 s of an idle machine, more than 5 s: make it quicker, or mark it",
        ),
        ("@pytest.mark.slow\ndef test_it(): wait(6)", "passed", ""),
        ("@pytest.mark.long\ndef test_it(): wait(6)", "passed", ""),
        ("def test_it(): wait(4)", "passed", ""),
        ("def test_it(): compute(6)", "failed", ""),
        ("def test_it(): compute(4); wait(2)", "failed", ""),
        ("def test_it(): be_kept_waiting(60)", "passed", ""),
        ("def test_it(): be_kept_waiting_and_told_later(60)", "passed", ""),
        ("def test_it(): be_kept_waiting(60); wait(6)", "failed", ""),
        ("def test_it(): be_kept_waiting(60, 1, 2, 56)", "passed", ""),
        ("def test_it(): be_kept_waiting(9, 3, 3, 3)", "failed", "it took 6.0 s"),
        ("def test_it(): compute_beside_others(4)", "passed", ""),
        ("def test_it(): compute_beside_others(6)", "failed", ""),
        ("def test_it(own): wait(3)", "failed", ""),
        (SHARED.format(3, 3), "passed", ""),
        (SHARED.format(6, 0), "failed", "its fixture shared took 6.0 s"),
        ("def test_it():\n    wait(6)\n    assert 2 == 3", "failed", "assert 2 == 3"),
    ],
)
def test_only_what_a_test_would_take_on_an_idle_machine_counts(outcome, test: str, found: str, reported: str) -> None:
    what, text = outcome(test)
    assert (what, reported in text) == (found, True)
    assert ("idle machine" in text) == (found == "failed" and "assert" not in test)  # a test that fails says why


def test_a_moment_is_before_the_next_one() -> None:
    before = now()
    assert sum(range(1_000_000)) > 0
    passed = now() - before
    assert 0 < passed.processor <= passed.seconds + 0.001  # the clocks are read one after the other
    assert min(passed.stalled) >= 0


def test_what_waited_for_several_things_at_once_waited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([Span(16, (14, 13.5, 13)), Span(16, (14, 13.5, 13)), Span(18.1, (14.1, 13.6, 13.2))])
    monkeypatch.setattr(pace, "now", lambda: next(moments))
    monkeypatch.setattr(pace, "settle", lambda: None)
    began = Span(10, (10, 10, 10))
    assert pace.idle_seconds(began, 2) == pytest.approx(6 - 4 - 0.1)
