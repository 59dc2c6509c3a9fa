"""The documented ways of copying a root and of putting a copy back, with senders that go on at every step."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.control.care import check_repository
from node.control.repository import Repository
from node.settings.core import OverwritePolicy
from node.settings.model import Settings
from tests.crash.journal import Sent, new_series
from tests.ingest import served, settings_of, take
from tests.made_once import IN_POSTGRESQL, copy_root, put_index_back, save_index
from tests.preloaded import run
from tests.rsync import Rsync

pytestmark = pytest.mark.slow


DOCS = Path(__file__).resolve().parents[2] / "docs"
POLICIES = ("never", "keep_both", "replace")


def documented(document: str, title: str) -> list[list[str]]:
    """The commands of a section, in their order; a line that ends with a backslash goes on."""
    section = (DOCS / document).read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^ {4}(\S.*)$", section.replace("\\\n", ""), flags=re.MULTILINE)]


class Senders:
    """Everything that was acknowledged; each `go_on` adds instances, and another version of one that is there."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.versions: dict[str, list[Sent]] = {}

    def take(self, *instances: Sent) -> None:
        take(self._repository.ingest, instances)
        for one in instances:
            self.versions.setdefault(one.sop_instance_uid, []).append(one)

    def go_on(self) -> None:
        waiting = [versions[0] for versions in self.versions.values() if len(versions) == 1]
        self.take(*new_series(1))
        if waiting:
            self.take(waiting[0].altered())


def kept(root: Path) -> Iterator[bytes]:
    for folder in ("objects", "quarantine"):
        yield from (path.read_bytes() for path in root.glob(f"{folder}/**/*.dcm"))


def require(root: Path, settings: Settings, before: dict[str, list[Sent]], sent: dict[str, list[Sent]]) -> None:
    """What was acknowledged before is there and is served in one of its versions; the root has no difference left."""
    now, files = served(root), list(kept(root))
    for uid, versions in before.items():
        assert now.get(uid) in {one.sha256 for one in sent[uid]}, "served in none of its versions"
        for one in versions:
            assert any(content.endswith(one.data) for content in files), "a version that was acknowledged is lost"
    for uid, digest in now.items():
        assert digest in {one.sha256 for one in sent[uid]}
    found = check_repository(settings, digests=True, repair=False)
    assert {one.kind for one in found} <= {"journal-gap"}, "what came after the copy may be missing"


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_copy_that_is_made_while_the_node_receives_has_all_that_was_acknowledged_before(
    tmp_path: Path, policy: OverwritePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root, copy = tmp_path / "voxelnode-data", tmp_path / "backup"
    copy.mkdir()
    commands = documented("backup.md", "With other programs")
    assert [words[0] for words in commands] == ["sqlite3", "rsync", "rsync"]
    with Repository(settings_of(root, policy)) as repository:
        senders = Senders(repository)
        senders.take(*new_series(25))
        senders.go_on()
        before = {uid: list(versions) for uid, versions in senders.versions.items()}
        for command, *words in commands:
            here = [word.replace("/backup", str(copy)) for word in words]
            if command == "sqlite3":
                save_index(root, copy / "index.sqlite")
                senders.go_on()
            else:
                Rsync(senders.go_on)(here)
            repository.applier.checkpoint()
    if IN_POSTGRESQL:
        put_index_back(copy, copy / "index.sqlite")
    settings = settings_of(copy, policy)
    run("fsck", "--root", copy, "--hash", "--repair", check=True)
    require(copy, settings, before, senders.versions)


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_way_back_after_an_upgrade_keeps_what_was_received_since(tmp_path: Path, policy: OverwritePolicy) -> None:
    root, copy = tmp_path / "root", tmp_path / "index.sqlite"
    with Repository(settings_of(root, policy)) as repository:
        senders = Senders(repository)
        senders.take(*new_series(5))
        save_index(root, copy)
    with Repository(settings_of(root, policy)) as repository:  # the new version
        senders._repository = repository
        for _ in range(4):
            senders.go_on()
        repository.applier.checkpoint()
    for words in documented("upgrade.md", "Back to the old version"):
        line = [word.replace("/var/lib/voxelnode", str(root)).replace("/backup/index.sqlite", str(copy))
                for word in words if word not in ("sudo", "-u")]  # fmt: skip
        if line[0] == "voxelnode":  # who runs the command
            run(*line[2:], check="fsck" not in line)
        elif line[0] == "rm":
            for path in line[2:]:
                Path(path).unlink(missing_ok=True)
        elif line[0] == "install":
            assert line[-2:] == [str(copy), f"{root}/index.sqlite"]
            put_index_back(root, copy)
    require(root, settings_of(root, policy), senders.versions, senders.versions)
    if policy == "replace":
        assert served(root) == {uid: versions[-1].sha256 for uid, versions in senders.versions.items()}


@pytest.mark.parametrize("how", ["stopped", "without a journal"])
def test_a_root_that_is_copied_while_no_node_runs_is_the_same(tmp_path: Path, how: str) -> None:
    root, copy = tmp_path / "root", tmp_path / "copy"
    with Repository(settings_of(root, "replace")) as repository:
        senders = Senders(repository)
        senders.take(*new_series(3))
        senders.go_on()
    expected = served(root)
    copy_root(root, copy, *(["journal"] if how == "without a journal" else []))
    Repository(settings_of(copy, "replace")).close()
    assert served(copy) == expected
    require(copy, settings_of(copy, "replace"), senders.versions, senders.versions)
