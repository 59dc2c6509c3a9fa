"""Which requests are answered from what a burst has kept, and how much is kept."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from node.extensions.dicomweb import bursts
from node.extensions.dicomweb.bursts import Bursts

SERIES = "/dicom-web/studies/1/series/2"


def scope(uid: str = "3", path: str = SERIES, **other: Any) -> dict[str, Any]:
    usual = {"client": ("10.0.0.1", 5), "method": "GET", "scheme": "http", "query_string": b"", "headers": []}
    return usual | {"path": f"{path}/instances/{uid}/frames/1"} | other


def call(uids: list[str], begun_at: float, length: int = 1, version: int = 1, **of: Any) -> Any:
    """A request for the first of the instances of a series, of this length each."""
    stored = [SimpleNamespace(sop_instance_uid=uid, key=uid, data_set_offset=0, bytes=length) for uid in uids]
    view = SimpleNamespace(files=SimpleNamespace(stored=lambda study, series: stored))
    archive = SimpleNamespace(path=lambda key: key, remote=None)
    node = SimpleNamespace(index=SimpleNamespace(reading=lambda: nullcontext(view)), archive=archive)
    state = SimpleNamespace(begun=(begun_at, version))
    request = SimpleNamespace(scope=scope(uids[0], **of), state=state, path_params={"study": "1", "series": "2"})
    return SimpleNamespace(request=request, node=node, audit=SimpleNamespace(accessed=lambda objects, how: None))


def begun(uids: list[str], length: int = 1, kept: Bursts | None = None, **of: Any) -> Bursts:
    """What two requests keep, one at 0 and one at 0.1 s."""
    kept = kept or Bursts()
    for at in (0.0, 0.1):
        kept.note(call(uids, at, length, **of), "frames", lambda *_: None)
    return kept


def test_a_burst_is_of_equal_requests_and_one_version_of_the_index() -> None:
    kept = begun(["3", "4"])
    assert kept.find(scope("4"), 0.2, 1) is not None
    others = (
        {"client": ("10.0.0.2", 5)},
        {"query_string": b"quality=10"},
        {"method": "HEAD"},
        {"headers": [(b"cookie", b"x")]},
    )
    assert [kept.find(scope("4", **other), 0.2, 1) for other in others] == [None] * len(others)
    assert [kept.find(scope("5"), 0.2, 1), kept.find(scope("4"), 0.2, 2), kept.find(scope("4"), 0.2, None)] == [
        None
    ] * 3


def test_a_burst_is_renewed_by_one_request_and_ends_with_its_life() -> None:
    kept = begun(["3", "4"])
    renewing, beside, late = (kept.find(scope("4"), at, 1) for at in (0.7, 0.8, 1.1))
    assert (renewing, beside is not None, late) == (None, True, None)


@pytest.mark.parametrize("uids", [["3", "4"], ["3"]])
def test_a_series_is_found_once_a_second_however_often_the_index_changes(
    monkeypatch: pytest.MonkeyPatch, uids: list[str]
) -> None:
    found, finding, kept = [], bursts._found, Bursts()
    monkeypatch.setattr(bursts, "_found", lambda one: found.append(one.request.state.begun[0]) or finding(one))
    for at, version in ((0.0, 1), (0.1, 1), (0.3, 2), (1.2, 2), (1.3, 2)):
        kept.note(call(uids, at, version=version), "frames", lambda *_: None)
    assert found == [0.1, 1.2]


@pytest.mark.parametrize(("length", "is_kept"), [(bursts.MAX_FILE_BYTES, True), (bursts.MAX_FILE_BYTES + 1, False)])
def test_long_files_are_left_to_the_route(length: int, is_kept: bool) -> None:
    assert (begun(["3", "4"], length).find(scope("4"), 0.2, 1) is not None) is is_kept


@pytest.mark.parametrize(("most_instances", "most_bursts"), [(4, 64), (100, 2)])
def test_the_oldest_burst_gives_way(monkeypatch: pytest.MonkeyPatch, most_instances: int, most_bursts: int) -> None:
    monkeypatch.setattr(bursts, "MAX_KEPT", most_instances)
    monkeypatch.setattr(bursts, "MAX_BURSTS", most_bursts)
    kept = Bursts()
    for number in range(3):
        begun(["3", "4"], kept=kept, path=f"{SERIES}.{number}")
    found = [kept.find(scope("4", f"{SERIES}.{number}"), 0.2, 1) is not None for number in range(3)]
    assert found == [False, True, True]
