"""What a process that reads foreign bytes may still do: code that took it over is refused all else."""

import errno
import os
import resource
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from node.children import confinement
from node.children.confinement import MAX_OPEN_FILES, offered
from node.children.decoder import Decoder, NotDecoded
from node.children.messages import write_answer
from node.children.serving import packed
from tests.processes import children, descendants, known_outside_as

pytestmark = pytest.mark.usefixtures("other_pythons")

MEMORY_BYTES = 2_000_000_000


@pytest.fixture(scope="module")
def others() -> set[int]:
    """Children of tests that ran in this process before."""
    return children()


@pytest.fixture(scope="module")
def decoder(others: set[int]) -> Iterator[Decoder]:
    with closing(Decoder(memory_bytes=MEMORY_BYTES)) as decoder:
        yield decoder


def attempt(given: Path, action: str, into: Path | None = None) -> bytes:
    """Return what came of an action: ``done``, or the name of the error."""
    try:
        ACTIONS[action](given, into or given)
    except OSError as error:
        return errno.errorcode[error.errno or 0].encode()
    return b"done"


def _fork(_given: Path, _into: Path) -> None:
    if (process := os.fork()) == 0:
        os._exit(0)
    os.waitpid(process, 0)


def _thread(_given: Path, _into: Path) -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def _many_files(given: Path, _into: Path) -> None:
    files = [given.open() for _ in range(MAX_OPEN_FILES)]
    raise AssertionError(len(files))


def _other() -> int:
    """Return the number of another process: a confined one does not see that of its parent."""
    return os.getppid() or 1


def _neighbour(path: Path) -> Path:
    return path.parent / "neighbour"


Actions = dict[str, Callable[[Path, Path], object]]

ALLOWED: Actions = {
    "read what was given": lambda given, into: given.read_bytes(),
    "write what was given": lambda given, into: into.write_bytes(b"pixels"),
    "start a thread": _thread,
    "load a module": lambda given, into: __import__("zoneinfo").ZoneInfo("UTC"),
}
FILES: Actions = {
    "read /etc/passwd": lambda given, into: Path("/etc/passwd").read_bytes(),
    "read a neighbour": lambda given, into: _neighbour(given).read_bytes(),
    "read by another path": lambda given, into: Path(f"/proc/self/root{_neighbour(given)}").read_bytes(),
    "read the memory of another process": lambda given, into: Path(f"/proc/{_other()}/mem").open("rb").close(),
    "read the environment of another process": lambda given, into: Path(f"/proc/{_other()}/environ").read_bytes(),
    "list a folder": lambda given, into: os.listdir(given.parent),
    "list the root": lambda given, into: os.listdir("/"),
    "write to what it reads": lambda given, into: given.write_bytes(b""),
    "cut what it reads": lambda given, into: os.truncate(given, 0),
    "create a file": lambda given, into: (given.parent / "new").write_bytes(b""),
    "create a file in /tmp": lambda given, into: Path("/tmp/voxelnode-test").write_bytes(b""),
    "remove a file": lambda given, into: _neighbour(given).unlink(),
    "rename a file": lambda given, into: os.rename(_neighbour(given), given),
    "run a program": lambda given, into: os.execv("/bin/true", ["true"]),
}
CALLS: Actions = {
    "open a socket": lambda given, into: socket.socket().close(),
    "open a local socket": lambda given, into: socket.socket(socket.AF_UNIX).close(),
    "fork": _fork,
    "start a program": lambda given, into: subprocess.run(["/bin/true"], check=False),
    "signal another process": lambda given, into: os.kill(_other(), 0),
    "signal everybody": lambda given, into: os.kill(-1, 0),
    "link": lambda given, into: os.link(given, given.parent / "link"),
    "link symbolically": lambda given, into: os.symlink("/etc/passwd", given.parent / "link"),
    "let others read": lambda given, into: os.chmod(given, 0o666),
    "set the time of a file": lambda given, into: os.utime(given),
    "limit another process": lambda given, into: resource.prlimit(_other(), resource.RLIMIT_NOFILE, (0, 0)),
}
LIMITS: Actions = {
    "open many files": _many_files,
    "write a long file": lambda given, into: os.truncate(into, MEMORY_BYTES + 1),
}
ACTIONS = ALLOWED | FILES | CALLS | LIMITS


@pytest.fixture
def given(tmp_path: Path) -> Path:
    for name in ("given", "neighbour", "into"):
        (tmp_path / name).write_bytes(b"secret")
    return tmp_path / "given"


def tried(decoder: Decoder, given: Path, action: str) -> bytes:
    return decoder.run(attempt, given, action, into=given.parent / "into")


@pytest.mark.parametrize("action", ALLOWED)
def test_what_a_decoder_needs_it_may_do(decoder: Decoder, given: Path, action: str) -> None:
    assert tried(decoder, given, action) == b"done"
    assert (given.parent / "into").read_bytes() == (b"pixels" if "write" in action else b"secret")


@pytest.mark.skipif(not offered().landlock, reason="this kernel has no Landlock")
@pytest.mark.parametrize("action", FILES)
def test_a_decoder_touches_no_file_but_those_that_it_was_given(decoder: Decoder, given: Path, action: str) -> None:
    assert tried(decoder, given, action) in (b"EACCES", b"EPERM")
    assert sorted(os.listdir(given.parent)) == ["given", "into", "neighbour"]
    assert {path.read_bytes() for path in given.parent.iterdir()} == {b"secret"}


@pytest.mark.skipif(not offered().seccomp, reason="this kernel has no seccomp, or this machine no filter")
@pytest.mark.parametrize("action", CALLS)
def test_a_decoder_reaches_neither_network_nor_other_processes(decoder: Decoder, given: Path, action: str) -> None:
    assert tried(decoder, given, action) == b"EPERM"


def test_a_decoder_has_limits(decoder: Decoder, given: Path) -> None:
    assert [tried(decoder, given, action) for action in LIMITS] == [b"EMFILE", b"EFBIG"]
    limits = decoder.run(hard_limits, given).split()
    assert [int(limit) for limit in limits] == [0, MAX_OPEN_FILES, MEMORY_BYTES]


def hard_limits(given: Path) -> bytes:
    kinds = resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE
    return b" ".join(b"%d" % resource.getrlimit(kind)[1] for kind in kinds)


@pytest.mark.parametrize(
    "action", [name for name in (*FILES, *CALLS) if name.startswith(("read", "list", "open", "fork"))]
)
def test_the_same_is_done_where_nothing_forbids_it(given: Path, action: str) -> None:
    assert attempt(given, action) == b"done"


def no_new_privs(given: Path) -> bytes:
    return b"%d" % confinement._libc.prctl(39, 0, 0, 0, 0)  # PR_GET_NO_NEW_PRIVS


def test_no_program_would_give_it_more_rights(decoder: Decoder, given: Path) -> None:
    assert decoder.run(no_new_privs, given) == b"1"


def process(given: Path) -> bytes:
    return b"%d" % os.getpid()


def test_each_file_has_a_process_of_its_own(decoder: Decoder, others: set[int], given: Path, tmp_path: Path) -> None:
    other = tmp_path / "neighbour"
    first, again = (decoder.run(process, given) for _ in range(2))
    descriptor = os.pidfd_open(known_outside_as(keeper(others), int(first)))
    another, back = (decoder.run(process, path) for path in (other, given))
    assert first == again
    assert len({first, another, back}) == 3
    assert _ended(descriptor)


def test_files_of_a_series_share_a_process_that_reads_no_other(decoder: Decoder, given: Path, tmp_path: Path) -> None:
    series = [tmp_path / "one", tmp_path / "two"]
    for path in series:
        path.write_bytes(b"pixels")
    first, second = (decoder.run_beside(packed(series), process, path) for path in series)
    assert first == second
    assert decoder.run_beside(packed(series), attempt, series[1], "read what was given") == b"done"
    assert decoder.run_beside(packed(series), attempt, series[1], "read a neighbour") == b"EACCES"
    assert decoder.run_beside(packed(series), process, series[0]) == first
    assert decoder.run(process, series[0]) != first
    assert decoder.run_beside(packed([*series, given]), process, series[0]) != first


def crash(given: Path) -> bytes:
    os.abort()


def exit_quietly(given: Path) -> bytes:
    os._exit(0)


def forge(given: Path, kind: bytes) -> bytes:
    """Answer by oneself, to a later request, and go on."""
    for descriptor in range(3, 30):
        try:
            write_answer(descriptor, bytes(16), b"forged", kind)
        except OSError:
            continue
    return b"own"


def keeper(others: set[int]) -> int:
    """Return the number of the process that forks those of the decoder of this module."""
    [own] = children() - others
    return own


@pytest.mark.parametrize("end", [crash, exit_quietly])
def test_the_end_of_such_a_process_is_reported_and_costs_no_start(
    decoder: Decoder, others: set[int], given: Path, end: Callable[[Path], bytes]
) -> None:
    decoder.run(process, given.parent / "neighbour")
    before = keeper(others)
    with pytest.raises(NotDecoded, match="crashed"):
        decoder.run(end, given)
    decoder.run(process, given.parent / "neighbour")
    assert keeper(others) == before


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", [b"a", b"d"])
def test_what_it_forges_is_no_answer_to_a_later_request(decoder: Decoder, given: Path, kind: bytes) -> None:
    assert decoder.run(forge, given, kind) == b"own"
    assert decoder.run(attempt, given.parent / "neighbour", "read what was given") == b"done"


@pytest.mark.slow
def test_it_ends_with_its_keeper(given: Path) -> None:
    before = children()
    with closing(Decoder(deadline_seconds=60)) as decoder:
        number = int(decoder.run(process, given))
        [own] = children() - before
        descriptors = [os.pidfd_open(process) for process in descendants(own)]
        assert known_outside_as(own, number) in descendants(own)
        os.kill(own, signal.SIGKILL)
        assert all(map(_ended, descriptors))


def _ended(descriptor: int) -> bool:
    ready, _, _ = select.select([descriptor], [], [], 60)
    os.close(descriptor)
    return bool(ready)
