"""Downloads that are made before they are fetched: there are never too many, and each ends when it is to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from node.archive.filesystem import Archive
from node.errors import OutOfResources
from node.index.nouns.accounts import Role
from node.web.access import Call, Caller
from node.web.errors import DownloadsBusy
from node.web.prepared import MAX_KEPT_FOR_ACCOUNT, MAX_MADE, MAX_MADE_FOR_ACCOUNT, PreparedDownloads
from node.web.zips import Member
from tests.web.conftest import until


def call_of(account: str) -> Call:
    return cast("Call", SimpleNamespace(account=Caller(account, Role.READ)))


class Downloads:
    """Downloads of a root, of members that wait until they may go on."""

    def __init__(self, root: Path, reserve_bytes: int = 0) -> None:
        self.stopping, self.may_go_on = threading.Event(), threading.Event()
        self.archive = Archive(root, reserve_bytes)
        self.made = PreparedDownloads(self.archive, self.stopping)
        self.closed = 0

    def begin(self, account: str = "one") -> str:
        return self.made.begin(call_of(account), "x.zip", [], (0, "file"), self._members, self._close)

    def state(self, number: str) -> str:
        return self.made.of(call_of("one"), number).state

    def _members(self, check: Callable[[], None]) -> Iterator[Member]:
        while not self.may_go_on.wait(0.01):
            check()
        yield Member("x", 1, iter([b"x"]))

    def _close(self) -> None:
        self.closed += 1


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    made = Downloads(tmp_path)
    yield made
    made.stopping.set()


def test_an_account_has_a_few_downloads_that_are_made_and_kept(downloads: Downloads) -> None:
    first = [downloads.begin() for _ in range(MAX_MADE_FOR_ACCOUNT)]
    with pytest.raises(DownloadsBusy, match="are being made already"):
        downloads.begin()
    assert downloads.closed == 1, "what was refused is closed"
    others = [downloads.begin(f"other {number}") for number in range(MAX_MADE - MAX_MADE_FOR_ACCOUNT)]
    with pytest.raises(DownloadsBusy):
        downloads.begin("another")
    downloads.made.remove(first[0])  # ends it, although it has no member yet
    until(lambda: downloads.closed == 3)
    downloads.may_go_on.set()
    until(lambda: downloads.closed == MAX_MADE + 2 and downloads.state(first[1]) == "ready")
    for _ in range(1, MAX_KEPT_FOR_ACCOUNT):
        number = downloads.begin()
        until(lambda number=number: downloads.state(number) == "ready")  # type: ignore[misc]
    with pytest.raises(DownloadsBusy, match="are kept already"):
        downloads.begin()
    until(lambda: len(list(downloads.archive.work.iterdir())) == MAX_KEPT_FOR_ACCOUNT + len(others))
    downloads.made.remove(first[1])
    downloads.begin()


def test_no_download_begins_on_a_full_disk(tmp_path: Path) -> None:
    full = Downloads(tmp_path, reserve_bytes=1 << 62)
    with pytest.raises(OutOfResources):
        full.begin()
    assert full.closed == 1
    full.stopping.set()
