"""Fixtures of all tests."""

import gc
import json
import logging
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from functools import cache, partialmethod
from pathlib import Path
from typing import Any, NamedTuple

import httpcore2
import pytest
import structlog
from hypothesis import HealthCheck, settings
from pynetdicom.transport import AssociationServer

from node.cli import main
from node.index.rows.backend import ServerPlace
from node.index.rows.place import upgrade
from node.journal import journal, segment
from tests.awaited_answers import lose_no_answer
from tests.made_once import IN_POSTGRESQL, drop_indexes, share_indexes
from tests.pace import Pace
from tests.peers import Pacs
from tests.postgresql import Server, close_shared, start
from tests.preloaded import Worker, close_forkers
from tests.skips import NoSilentSkips, is_required

ROOT = Path(__file__).resolve().parents[1]
CAMPAIGNS = ROOT / "tests" / "crash"
"""Has the tests that take the longest."""

QUICK = "not slow and not long"
"""What README's command runs."""

OF_A_FILE = re.compile(r"^pytestmark = .*pytest\.mark\.(slow|long)\b", re.MULTILINE)

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 << 30
"""More than what tests that run at the same time write; a file goes with its test, unless that failed."""


def _write_to_memory() -> None:
    """Write temporary files to memory, if nobody says where: tests wait for a disk a third of their time.

    A kill loses no more than on a disk; what a power cut would lose, tests/crash/disk.py knows.
    """
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
        tempfile.tempdir = os.environ["TMPDIR"] = str(MEMORY)


_write_to_memory()
share_indexes()

settings.register_profile("whatever the load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("whatever the load")

# Without bytecode, each process that a test starts would compile the whole package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Readline, which pytest loads, sets these for child processes without a terminal, and Python does not know it.
for _size in ("COLUMNS", "LINES"):
    os.unsetenv(_size)
    os.environ.pop(_size, None)

lose_no_answer()

# A client of HTTP reads the certificates of the machine's authorities, which takes longer than most requests of tests.
httpcore2.default_ssl_context = cache(httpcore2.default_ssl_context)

# So does another context, of providers of sign-ins.
pytest.MonkeyPatch().setattr("ssl.SSLContext.load_default_certs", lambda *_: None)

# A journal grows in steps of 4 MiB, which tests would write at each start and read before each look at rows.
segment.GROW_BYTES = journal.GROW_BYTES = 64 << 10

# pynetdicom's server looks only twice a second whether it is to end; tests start and end hundreds.
AssociationServer.serve_forever = partialmethod(AssociationServer.serve_forever, poll_interval=0.02)


def pytest_configure(config: pytest.Config) -> None:
    """Judge how long tests take, except those that wait for a person and those with a database server for each root.

    Where everything must be there, judge what is skipped as well.
    """
    if not (config.getoption("usepdb") or config.getoption("trace") or IN_POSTGRESQL):
        config.pluginmanager.register(Pace())
    if is_required():
        config.pluginmanager.register(NoSilentSkips())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the campaigns, so that no worker is left with a long one; leave out what PostgreSQL does not have."""
    _keep_diagonals(items)
    _keep_samples(items)
    items.sort(key=lambda item: CAMPAIGNS not in item.path.parents)
    if IN_POSTGRESQL:
        for item in items:
            if (marker := item.get_closest_marker("sqlite")) is not None:
                item.add_marker(pytest.mark.skip(reason=f"about SQLite: {marker.args[0]}"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files of which README's command runs nothing, unless they are named: their imports cost time."""
    if config.option.markexpr == QUICK and collection_path.suffix == ".py":
        return OF_A_FILE.search(collection_path.read_text()) is not None or None
    return None


def _keep_diagonals(items: list[pytest.Item]) -> None:
    """Leave to the slow tests what a matrix has beside its diagonal: the least cases in which each value occurs."""
    for matrix in _cases(items, "diagonal").values():
        axes: list[dict[tuple[int, ...], int]] = [{} for _ in matrix[0].iter_markers("parametrize")]
        cases = [
            tuple(axis.setdefault(values, len(axis)) for axis, values in zip(axes, _values(item), strict=True))
            for item in matrix
        ]
        diagonal = {tuple(step % len(axis) for axis in axes) for step in range(max(map(len, axes)))}
        for item, case in zip(matrix, cases, strict=True):
            if case not in diagonal:
                item.add_marker(pytest.mark.slow)


def _keep_samples(items: list[pytest.Item]) -> None:
    """Leave to the slow tests all but some cases of a long table, and all but some of these to the long ones."""
    for table in _cases(items, "sample").values():
        few, *more = table[0].get_closest_marker("sample").args
        table = [item for item in table if item.get_closest_marker("long") is None]
        _keep_some([item for item in table if item.get_closest_marker("slow") is None], few, pytest.mark.slow)
        for some in more:
            _keep_some([item for item in table if item.get_closest_marker("slow")], some, pytest.mark.long)


def _keep_some(cases: list[pytest.Function], wanted: int, others: pytest.MarkDecorator) -> None:
    """Mark all but `wanted` cases, which are in equal steps from the first to the last."""
    kept = {step * (len(cases) - 1) // max(wanted - 1, 1) for step in range(wanted)}
    for number, item in enumerate(cases):
        if number not in kept:
            item.add_marker(others)


def _cases(items: list[pytest.Item], mark: str) -> dict[str, list[pytest.Function]]:
    """The cases of each test that has a mark."""
    cases: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker(mark) is not None and isinstance(item, pytest.Function):
            cases[item.nodeid.partition("[")[0]].append(item)
    return cases


def _values(item: pytest.Function) -> Iterator[tuple[int, ...]]:
    """Which values a case has of each axis of its matrix."""
    for axis in item.iter_markers("parametrize"):
        names = axis.args[0].split(",") if isinstance(axis.args[0], str) else axis.args[0]
        yield tuple(id(item.callspec.params[name.strip()]) for name in names)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep modules and tests, which stay, out of garbage collections: tests that look for leaks collect often."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


# Unless a test configures it, structlog draws each exception with the values of all variables, for half a second.
def _log_plainly() -> None:
    structlog.reset_defaults()
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


_log_plainly()

# A logger that is kept from its first line on would not heed what later tests of the process configure or capture.
_configure = structlog.configure
structlog.configure = lambda **options: _configure(**{**options, "cache_logger_on_first_use": False})


@pytest.fixture
def quiet() -> Iterator[None]:
    """Nothing is logged."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as peer:
        yield peer


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """Undo what commands do to their process.

    `node.runtime.logs.configure` logs to a stream that pytest closes after the test; without the collector, open files
    stay.
    """
    root = logging.getLogger()
    before = list(root.handlers), root.level
    thresholds = gc.get_threshold()
    yield
    gc.enable()
    gc.set_threshold(*thresholds)
    if root.handlers != before[0]:
        root.handlers, root.level = before
        logging.captureWarnings(False)
        _log_plainly()


@pytest.fixture(autouse=IN_POSTGRESQL)
def _drop_indexes(tmp_path: Path) -> Iterator[None]:
    """Keep no databases of tests that are over."""
    yield
    drop_indexes(tmp_path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers ``-n auto`` starts: more than there are processors, for many tests wait.

    On two processors, all tests took 584 s with four workers and 641 s with three, which left a quarter of both idle.
    """
    processors = len(os.sched_getaffinity(0))
    return processors + min(processors, 4)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[object]) -> None:
    """Import once for all workers what they have in common, which takes longer than the rest of their start."""
    if len(specs) > 1 and not IN_POSTGRESQL:
        pytest.MonkeyPatch().setattr("execnet.gateway_io.Popen2IOMaster", Worker)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """End the server of PostgreSQL: a worker has only 10 s for what comes later, and would leave its files."""
    close_shared()


def pytest_unconfigure() -> None:
    close_forkers()


def corpus_folder() -> Path:
    """Where the corpus of real series is looked for."""
    return Path(os.environ.get("VOXELNODE_CORPUS", ROOT.parent / "shared" / "corpus"))


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Folder of the corpus of real series; tests that need it are skipped where it is missing."""
    folder = corpus_folder()
    if not (folder / "expected.json").is_file():
        pytest.skip(f"no corpus of real series at {folder}; set VOXELNODE_CORPUS")
    return folder


class Result(NamedTuple):
    """What a command gave."""

    status: object
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run one command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOXELNODE_CONFIG", raising=False)

    def run_command(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        return Result(exit_.value.code, *capsys.readouterr())

    return run_command


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of PostgreSQL with a database of the newest schema."""
    with start() as server:
        upgrade(ServerPlace(server.create("migrated"), tmp_path_factory.mktemp("root")))
        yield server
