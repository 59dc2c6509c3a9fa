"""Storage commitment over HTTP: what is told to be kept was read again."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from node.dicom.json_model import Json
from node.extensions.commitment import web
from node.extensions.commitment.web import MAX_REFERENCES
from node.extensions.dicomweb.xml_model import json_from_native
from tests import make
from tests.rows import view_rows
from tests.web.conftest import DEADLINE_SECONDS, Site, until

PATH = "/dicom-web/commitment-requests/1.2.826"
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
JSON = {"Content-Type": "application/dicom+json"}


def asked(*references: tuple[Any, Any]) -> Json:
    items = [{"00081150": {"vr": "UI", "Value": [kind]}, "00081155": {"vr": "UI", "Value": [uid]}}
             for kind, uid in references]  # fmt: skip
    return {"00081199": {"vr": "SQ", "Value": items}}


def told(model: Json, tag: str) -> dict[str, int | None]:
    """Failure Reason by SOP Instance UID."""
    return {
        item["00081155"]["Value"][0]: item.get("00081197", {}).get("Value", [None])[0]
        for item in model.get(tag, {}).get("Value", [])
    }


def test_a_client_hears_which_instances_are_kept_and_why_others_are_not(start_site: Callable[..., Site]) -> None:
    site = start_site()
    kept, damaged, lost, other = make.ct_series(4)
    site.take(kept, damaged, lost, other)
    ours = kept.SOPInstanceUID
    paths = {row["sop_instance_uid"]: site.root / row["path"] for row in view_rows(site.root, "SELECT * FROM v_images")}
    content = bytearray(paths[damaged.SOPInstanceUID].read_bytes())
    content[-1] ^= 1
    paths[damaged.SOPInstanceUID].write_bytes(content)
    paths[lost.SOPInstanceUID].unlink()
    references = (
        (CT, ours),
        (CT, damaged.SOPInstanceUID),
        (CT, lost.SOPInstanceUID),
        (MR, other.SOPInstanceUID),
        (CT, "1.2.3"),
    )
    answer = site.client().post(PATH, json=asked(*references), headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json")
    assert told(answer.json(), "00081199") == {ours: None}
    assert told(answer.json(), "00081198") == {
        damaged.SOPInstanceUID: 0x0110, lost.SOPInstanceUID: 0x0110, other.SOPInstanceUID: 0x0119, "1.2.3": 0x0112,
    }  # fmt: skip
    whole = site.client().post(PATH, json=asked((CT, ours)), headers=JSON | {"Accept": "application/dicom+xml"})
    assert told(json_from_native(whole.content), "00081199") == {ours: None}
    assert "00081198" not in json_from_native(whole.content)
    assert site.client().get(PATH).status_code == 404
    assert "storage commitment 1.2.826 of 5 instances; 1 found" in (site.root / "audit.jsonl").read_text()


@pytest.mark.parametrize(
    ("path", "body", "content_type", "status"),
    [
        (PATH, asked(), "application/dicom+json", 400),
        (PATH, {}, "application/dicom+json", 400),
        (PATH, {"00081199": 7}, "application/dicom+json", 400),
        (PATH, {"00081199": {"vr": "SQ", "Value": [7]}}, "application/dicom+json", 400),
        (PATH, asked((CT, "no UID")), "application/dicom+json", 400),
        (PATH, asked((7, ["1"])), "application/dicom+json", 400),
        (PATH, asked(*[(CT, "1.2")] * (MAX_REFERENCES + 1)), "application/dicom+json", 400),
        (PATH, [asked((CT, "1.2"))] * 2, "application/dicom+json", 400),
        (PATH, asked((CT, "1.2")), "text/plain", 415),
        ("/dicom-web/commitment-requests/no-uid", asked((CT, "1.2")), "application/dicom+json", 400),
    ],
)
def test_what_is_no_request_is_refused(empty: Site, path: str, body: object, content_type: str, status: int) -> None:
    answer = empty.client().post(path, json=body, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_a_client_that_has_gone_ends_the_reading(
    start_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = start_site()
    begun, ended = threading.Event(), threading.Event()

    def read(service: object, references: object, requestor: object, stop: Callable[[], bool]) -> None:
        begun.set()
        until(stop)
        ended.set()

    monkeypatch.setattr(web, "verify", read)
    body = json.dumps(asked((CT, "1.2.3"))).encode()
    url = httpx2.URL(site.url)
    with socket.create_connection((url.host, url.port or 80)) as client:
        client.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nContent-Type: application/dicom+json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert begun.wait(DEADLINE_SECONDS)
        assert not ended.is_set()
    assert ended.wait(DEADLINE_SECONDS)
