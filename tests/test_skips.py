"""A test that is skipped without a reason from the list is a failure in the gate."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

CONFTEST = "from tests.skips import NoSilentSkips\ndef pytest_configure(config):\n"
CONFTEST += "    config.pluginmanager.register(NoSilentSkips())\n"


@pytest.mark.parametrize(
    ("test", "outcomes", "reported"),
    [
        ("def test_it(): pytest.skip('no C compiler here')", {"failed": 1}, "no C compiler here, but VOXELNODE"),
        ("@pytest.mark.skipif(True, reason='no peer')\ndef test_it(): pass", {"errors": 1}, "no peer, but"),
        ("@pytest.fixture\ndef own(): pytest.skip('no peer')\ndef test_it(own): pass", {"errors": 1}, "no peer, but"),
        ("pytest.importorskip('not_there')\ndef test_it(): pass", {"errors": 1}, "not_there"),
        ("def test_it(): pytest.skip('mounting needs root')", {"skipped": 1}, ""),
        ("@pytest.mark.skipif(True, reason='this kernel has none')\ndef test_it(): pass", {"skipped": 1}, ""),
        ("pytest.importorskip('not_there', reason='no wheel for this Python')\ndef test_it(): pass",
         {"skipped": 1}, ""),
        ("@pytest.mark.xfail\ndef test_it(): assert False", {"xfailed": 1}, ""),
        ("def test_it(): pass", {"passed": 1}, ""),
    ],
)  # fmt: skip
def test_a_skip_fails_unless_its_reason_is_on_the_list(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, test: str, outcomes: dict[str, int], reported: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(f"import pytest\n{test}")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    assert result.parseoutcomes() == outcomes
    assert reported in result.stdout.str()
