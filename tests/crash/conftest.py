"""The failing disk, built once, and the journal of senders."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.disk import Disk, built
from tests.crash.harness import Node
from tests.crash.journal import Journal
from tests.made_once import IN_POSTGRESQL


@pytest.fixture(autouse=IN_POSTGRESQL)
def _about_the_file() -> None:
    pytest.skip("about SQLite, or has databases of its own; failover.py kills nodes with a server")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("library"))


@pytest.fixture
def disk(tmp_path: Path, library: Path) -> Disk:
    """A disk of its own, with nothing on it."""
    made = Disk(library, tmp_path / "disk", tmp_path / "log", tmp_path / "control")
    made.root.mkdir()
    return made


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node that a test starts and kills."""
    with Node(tmp_path / "root") as node:
        yield node


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal")
    yield opened
    opened.close()
