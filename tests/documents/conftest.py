"""A machine for each test that runs documents."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents.blocks import typed
from tests.documents.machine import Machine


@pytest.fixture
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine with `voxelnode` on its path, on which the test types every block of the documents that it `runs`."""
    with Machine(tmp_path / "machine", preloaded=True) as machine:
        yield machine
    for log in (machine / "/run").glob("*log"):
        print(log.name, log.read_text()[-3000:], sep="\n")
    if request.node.stash.get(PASSED, False):
        for name in request.node.get_closest_marker("runs").args:
            wanted = [command.text for block in typed(*name.split(": ")) for command in block.commands]
            assert [text for text in wanted if text not in machine.typed] == [], name


PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report
