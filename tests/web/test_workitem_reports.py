"""Subscriptions to workitems, and their reports over a WebSocket (PS3.18 8.10, 11.10 to 11.13)."""

from __future__ import annotations

import datetime as dt
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from node.web import streams
from tests import make
from tests.web.conftest import Site, until

STUDY, SERIES = "1.2.3", "1.2.3.1"
WORKITEMS = "/dicom-web/workitems"
ALL, FILTERED = f"{WORKITEMS}/1.2.840.10008.5.1.4.34.5", f"{WORKITEMS}/1.2.840.10008.5.1.4.34.5.1"
SUBSCRIBER = "subscribers/WATCHER"


@contextmanager
def channel(site: Site, title: str = "WATCHER", **headers: str) -> Iterator[ClientConnection]:
    address = f"ws{site.url.removeprefix('http')}/dicom-web/subscribers/{title}"
    origin = headers.pop("Origin", None)
    with connect(address, additional_headers=headers, origin=origin, open_timeout=10, close_timeout=1) as connection:
        yield connection


def refusal(site: Site, title: str = "WATCHER", **headers: str) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as caught, channel(site, title, **headers):
        pass
    return caught.value


def report(connection: ClientConnection) -> dict[str, Any]:
    """The next report, by keyword of what tests compare."""
    message = json.loads(connection.recv(timeout=15))
    names = {"00001000": "uid", "00001002": "type", "00741000": "state", "00741238": "reason"}
    return {names[tag]: element["Value"][0] for tag, element in message.items() if tag in names}


def only_uid(site: Site, **keys: str) -> str:
    (item,) = site.client().get(WORKITEMS, params=keys).json()
    uid: str = item["00080018"]["Value"][0]
    return uid


def post(site: Site, path: str, **options: Any) -> Any:
    answer = site.client().post(path, **options)
    assert answer.status_code in (200, 201, 202), answer.text
    return answer


def test_every_state_of_every_conversion_is_reported(site: Site) -> None:
    created = post(site, f"{ALL}/{SUBSCRIBER}")
    assert created.status_code == 201
    assert created.headers["content-location"] == f"ws{site.url.removeprefix('http')}/dicom-web/{SUBSCRIBER}"
    with channel(site) as connection:
        site.take(*make.ct_series(3, study_uid=STUDY, series_uid=SERIES))
        site.convert()
        uid = only_uid(site)
        for state in ("SCHEDULED", "IN PROGRESS", "COMPLETED"):
            assert report(connection) == {"uid": uid, "type": 1, "state": state}
        post(site, f"/api/v1/studies/{STUDY}/reconvert")
        second = only_uid(site, ProcedureStepState="SCHEDULED")
        assert report(connection) == {"uid": second, "type": 1, "state": "SCHEDULED"}
        post(site, f"{WORKITEMS}/{second}/cancelrequest")
        cancelled = report(connection)
        assert cancelled.pop("reason") == "the reconversion was cancelled"
        assert cancelled == {"uid": second, "type": 1, "state": "CANCELED"}


def test_a_conversion_that_begins_again_reports_progress_and_growth_a_new_workitem(site: Site) -> None:
    post(site, f"{ALL}/{SUBSCRIBER}")
    images = make.ct_series(4, study_uid=STUDY, series_uid=SERIES)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=5)
    with channel(site) as connection:
        site.take(*images[:3])
        claimed = site.store.index.series.claim_due(later)
        assert claimed is not None
        site.take(images[3])
        site.store.index.series.record_crash(claimed, "for this test", 1, later)  # the series has grown: due again
        first = [report(connection) for _ in range(4)]
        assert [one["state"] for one in first] == ["SCHEDULED", "IN PROGRESS", "CANCELED", "SCHEDULED"]
        assert len({one["uid"] for one in first[:3]}) == 1
        assert first[3]["uid"] == only_uid(site, ProcedureStepState="SCHEDULED") != first[0]["uid"]


def test_only_what_is_subscribed_is_reported(site: Site) -> None:
    for number in (1, 2, 3):
        site.take(*make.ct_series(1, study_uid=f"1.2.{number}", series_uid=f"1.2.{number}.1", PatientID=str(number)))
    first, second, third = (only_uid(site, PatientID=str(number)) for number in (1, 2, 3))
    locked = post(site, f"{WORKITEMS}/{first}/{SUBSCRIBER}", params={"deletionlock": "true"})
    assert "Deletion Lock not granted" in locked.headers["warning"]
    post(site, f"{FILTERED}/{SUBSCRIBER}", params={"filter": "PatientID=2"})
    with channel(site) as connection, channel(site, "OTHER") as other:
        assert report(connection) == {"uid": first, "type": 1, "state": "SCHEDULED"}  # at once: how it is now
        site.convert()
        uids = {report(connection)["uid"] for _ in range(4)}
        assert uids == {first, second} != {third}
        with pytest.raises(TimeoutError):
            other.recv(timeout=0)


def test_a_subscription_can_be_suspended_and_ended(site: Site) -> None:
    client = site.client()
    assert client.delete(f"{ALL}/{SUBSCRIBER}").status_code == 404
    assert client.post(f"{ALL}/{SUBSCRIBER}/suspend").status_code == 404
    site.take(*make.ct_series(1, study_uid="1.2.1", series_uid="1.2.1.1", PatientID="1"))
    uid = only_uid(site)
    post(site, f"{ALL}/{SUBSCRIBER}")
    post(site, f"{ALL}/{SUBSCRIBER}/suspend")
    with channel(site) as connection:
        site.take(*make.ct_series(1, study_uid="1.2.2", series_uid="1.2.2.1", PatientID="2"))
        site.convert()
        assert [report(connection)["uid"] for _ in range(2)] == [uid, uid]
        assert client.delete(f"{WORKITEMS}/{uid}/{SUBSCRIBER}").status_code == 200
        assert client.delete(f"{ALL}/{SUBSCRIBER}").status_code == 200
        assert client.delete(f"{ALL}/{SUBSCRIBER}").status_code == 404
        post(site, "/api/v1/studies/1.2.1/reconvert")
        with pytest.raises(TimeoutError):
            connection.recv(timeout=1.2)  # more than two looks for news


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        (f"{WORKITEMS}/2.25.1/{SUBSCRIBER}", "", 404),
        (f"{ALL}/subscribers/A%5CB", "", 400),
        (f"{ALL}/subscribers/%20", "", 400),
        (f"{ALL}/subscribers/{'A' * 17}", "", 400),
        (f"{ALL}/subscribers/%C3%84", "", 400),
        (f"{ALL}/{SUBSCRIBER}", "deletionlock=perhaps", 400),
        (f"{FILTERED}/{SUBSCRIBER}", "", 400),
        (f"{FILTERED}/{SUBSCRIBER}", "filter=ProcedureStepState=SCHEDULED", 400),
        (f"{FILTERED}/{SUBSCRIBER}", "filter=NoSuchKeyword=1", 400),
        (f"{FILTERED}/{SUBSCRIBER}", "filter=PatientBirthDate=yesterday", 400),
        (f"{FILTERED}/{SUBSCRIBER}", "PatientID=4711", 201),
    ],
)
def test_a_subscription_that_cannot_be_kept_is_refused(site: Site, path: str, query: str, status: int) -> None:
    assert site.client().post(f"{path}?{query}").status_code == status


def test_subscriptions_have_a_bound(site: Site) -> None:
    statuses = [site.client().post(f"{ALL}/subscribers/AE{number}").status_code for number in range(21)]
    assert statuses == [201] * 20 + [503]
    filters = [site.client().post(f"{FILTERED}/subscribers/AE1?PatientID={number}").status_code for number in range(11)]
    assert filters == [201] * 10 + [503]


def test_a_channel_needs_an_account_and_is_of_that_account(guarded: Site) -> None:
    reader, writer = ({"Authorization": f"Bearer {guarded.token(name)}"} for name in ("reader", "writer"))
    assert refusal(guarded).response.status_code == 401
    assert refusal(guarded, Authorization="Bearer wrong").response.status_code == 401
    assert guarded.client().post(f"{ALL}/{SUBSCRIBER}").status_code == 401
    assert guarded.client().post(f"{ALL}/{SUBSCRIBER}", headers=reader).status_code == 201
    with channel(guarded, **reader) as own, channel(guarded, **writer) as of_another:
        guarded.take(*make.ct_series(1, study_uid=STUDY, series_uid=SERIES))
        assert report(own)["state"] == "SCHEDULED"
        with pytest.raises(TimeoutError):
            of_another.recv(timeout=1.2)
    details = [line["detail"] for line in guarded.audited("Query")]
    assert "workitems as they change" in details
    assert any(detail.startswith("UPS-RS /dicom-web/workitems/1.2.840.10008.5.1.4.34.5/") for detail in details)


def test_a_page_of_another_site_opens_no_channel(site: Site) -> None:
    assert refusal(site, Origin="https://evil.example").response.status_code == 403
    refused = refusal(site, Origin=site.url, **{"Sec-Fetch-Site": "cross-site"})
    assert refused.response.status_code == 403
    assert refused.response.headers["X-Content-Type-Options"] == "nosniff"
    with channel(site, Origin=site.url):
        pass


def test_channels_have_a_bound_and_are_given_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 1)
    with channel(site):
        assert refusal(site).response.status_code == 503
    until(lambda: site.server._app.state.streams.count == 0)
    assert refusal(site, "A%5CB").response.status_code == 400
    with channel(site):
        pass


def test_a_client_that_talks_is_disconnected(site: Site) -> None:
    for message in ("hello", b"x" * 5000):
        with channel(site) as connection:
            connection.send(message)
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(timeout=15)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code in (1003, 1009)
    until(lambda: site.server._app.state.streams.count == 0)


def test_a_channel_outlives_the_time_for_a_first_request_and_gives_no_way_to_strangers(
    start_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.web.server.HEAD_SECONDS", 0.3)
    site = start_site(maximum_connections=4)
    post(site, f"{ALL}/{SUBSCRIBER}")
    with channel(site) as connection:
        address = (site.server._web.host, int(site.url.rpartition(":")[2]))
        strangers = [socket.create_connection(address) for _ in range(8)]
        strangers[-1].settimeout(15)
        assert strangers[-1].recv(1) == b""  # after HEAD_SECONDS
        site.take(*make.ct_series(1, study_uid=STUDY, series_uid=SERIES))
        assert report(connection)["state"] == "SCHEDULED"
        for stranger in strangers:
            stranger.close()


def test_a_node_that_stops_closes_its_channels(site: Site) -> None:
    with channel(site) as connection:
        site.server.stop(5)
        assert not site.server.is_alive
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(timeout=15)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code in (1001, 1012)  # going away, or Service Restart


@pytest.mark.parametrize("path", ["/", "/dicom-web/studies", "/dicom-web/subscribers", "/healthz", "/no/such"])
def test_there_is_no_websocket_elsewhere(site: Site, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught, connect(f"ws{site.url.removeprefix('http')}{path}"):
        pass
    assert caught.value.response.status_code in (403, 404)


def test_a_handshake_that_is_wrong_harms_nobody(site: Site) -> None:
    address = (site.server._web.host, int(site.url.rpartition(":")[2]))
    for lines in ("", "Sec-WebSocket-Version: 12\r\nSec-WebSocket-Key: x\r\n", "Sec-WebSocket-Key: \xff\r\n"):
        with socket.create_connection(address) as stranger:
            stranger.settimeout(15)
            head = f"GET /dicom-web/{SUBSCRIBER} HTTP/1.1\r\nHost: localhost\r\n"
            stranger.sendall(f"{head}Connection: Upgrade\r\nUpgrade: websocket\r\n{lines}\r\n".encode("latin-1"))
            assert stranger.recv(100).startswith(b"HTTP/1.1 4")
    assert site.client().get("/healthz").status_code == 200
