"""Peers that an administrator adds in a browser, at a node that accepts associations meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pydicom import Dataset, dcmwrite

from node.association.client.association import Address, NoAssociation, verify
from node.control.node import Node
from node.control.repository import Repository
from node.errors import UsageError
from node.index.nouns.accounts import Role
from node.receive.ingest import Announced, Origin
from node.settings.model import ExtensionsSettings, Settings, Web
from tests import make
from tests.ingest import indexed
from tests.peers import Pacs
from tests.web.conftest import DEADLINE_SECONDS, PASSWORD, hash_once, until
from tests.web.pages import Visitor, accessibility_faults, start_browser

pytestmark = pytest.mark.slow


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield from start_browser(playwright)


def settings_of(root: Path) -> Settings:
    tables: dict[str, Any] = {
        "storage": {"root": root, "reserve_bytes": 0},
        "dicom": {"host": "127.0.0.1", "port": 0},
        "web": {"port": 0, "authentication": "always"},
        "peers": {"pacs": {"ae_title": "PACS"}},
    }
    return Settings.model_validate(tables)


def is_accepted(node: Address, calling: str) -> bool:
    try:
        verify(node, calling, DEADLINE_SECONDS)
    except NoAssociation:
        return False
    return True


def audited(root: Path) -> list[dict[str, Any]]:
    whole, _, _ = (root / "audit.jsonl").read_text().rpartition("\n")
    return [line for line in map(json.loads, whole.splitlines()) if "peer" in line.get("detail", "")]


def signed_in(visitor: Visitor) -> Page:
    page = visitor.open("/login")
    page.locator("input[name=name]").fill("chief")
    page.locator("input[name=password]").fill(PASSWORD)
    page.locator("input[name=password]").press("Enter")
    page.wait_for_url(lambda url: "/login" not in url)
    page.goto("/administration/connections")
    return page


def test_a_peer_is_added_changed_and_removed_while_the_node_runs(tmp_path: Path, browser: Browser) -> None:
    root = tmp_path / "root"
    with Repository(settings_of(root)) as store:
        store.index.accounts.set("chief", Role.ADMIN, hash_once(PASSWORD), store.ingest.now())
    node = Node(settings_of(root))
    endpoints = node.start()
    assert endpoints.dicom is not None
    here = Address(endpoints.dicom.ae_title, "127.0.0.1", endpoints.dicom.port)
    visitor = Visitor(browser, endpoints.web or "")
    try:
        page = signed_in(visitor)
        assert not is_accepted(here, "CT9")
        page.get_by_text("New peer").click()
        added = page.locator("form[action='/administration/peers']")
        added.get_by_label("Name", exact=True).fill("ct9")
        added.get_by_label("AE title").fill("CT9")
        added.get_by_label("Address where it listens").fill("127.0.0.1")
        added.get_by_label("Port").fill(str(here.port))
        assert accessibility_faults(page) == []
        added.get_by_role("button").click()
        row = page.locator("tr", has=page.get_by_role("rowheader", name="ct9"))
        expect(row).to_contain_text("chief,")
        expect(page.locator("tr", has=page.get_by_role("rowheader", name="pacs"))).to_contain_text("the configuration")
        assert is_accepted(here, "CT9")
        row.get_by_role("button", name="Test the connection").click()
        expect(row.locator(".answer")).not_to_be_empty()

        page.get_by_text("Change ct9", exact=True).click()
        assert accessibility_faults(page) == []
        page.locator("form[action='/administration/peers/ct9']").get_by_label("AE title").fill("CT10")
        page.get_by_role("button", name="Change the peer ct9").click()
        expect(row).to_contain_text("CT10")
        assert not is_accepted(here, "CT9")
        assert is_accepted(here, "CT10")
        address = f"{visitor.url}administration/peers/pacs/remove"
        refused = page.request.post(address, headers={"Origin": visitor.url.rstrip("/")})
        assert (refused.status, "is changed there" in refused.text()) == (400, True)
        assert is_accepted(here, "PACS"), "the configuration has it"

        node.stop(5)
        node = Node(settings_of(root))
        endpoints = node.start()
        assert endpoints.dicom is not None
        here = Address(endpoints.dicom.ae_title, "127.0.0.1", endpoints.dicom.port)
        assert is_accepted(here, "CT10")
        visitor.close()
        visitor = Visitor(browser, endpoints.web or "")
        page = signed_in(visitor)
        row = page.locator("tr", has=page.get_by_role("rowheader", name="ct9"))
        page.get_by_text("Change ct9", exact=True).click()
        page.get_by_role("button", name="Remove the peer ct9").click()
        expect(row).to_have_count(0)
        assert not is_accepted(here, "CT10")
        told = [line["detail"] for line in audited(root) if line["participants"][0]["user"] == "chief"]
        assert "done: peer ct9: CT10, may echo, store" in told
        assert told[-2:] == ["ordered: peer ct9: removed", "done: peer ct9: removed"]
        visitor.close()
        assert visitor.complaints == []
    finally:
        node.stop(5)


def test_a_peer_that_was_added_is_sent_to_by_hand_at_once_where_it_is_now(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with Repository(settings_of(root)) as store:
        store.index.accounts.set("chief", Role.ADMIN, hash_once(PASSWORD), store.ingest.now())
        for ds in make.ct_series(2, study_uid="1.2.3", series_uid="1.2.3.1"):
            stream = BytesIO()
            syntax = ds.file_meta.TransferSyntaxUID
            dcmwrite(stream, Dataset(ds), implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
            said = Announced(ds.SOPClassUID, ds.SOPInstanceUID, syntax)
            incoming = store.ingest.begin(said, Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1"))
            incoming.take_fragment(stream.getvalue())
            indexed(incoming)
    node = Node(settings_of(root))
    url = node.start().web or ""
    send = "/studies/1.2.3/send"
    with Pacs() as before, Pacs() as after, httpx2.Client(base_url=url, headers={"Origin": url.rstrip("/")}) as client:
        try:
            client.post("/login", data={"name": "chief", "password": PASSWORD})
            for pacs, address in ((before, "peers"), (after, "peers/added")):
                peer = {"name": "added", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "may": "echo"}
                changed = client.post(f"/administration/{address}", data=peer)
                assert changed.status_code == 303, changed.text
                assert "<option>added</option>" in client.get("/studies/1.2.3").text
                assert client.post(send, data={"to": "added"}).status_code == 303
                until(lambda pacs=pacs: len(pacs.taken) == 2)
                until(lambda: client.get("/api/v1/work?kind=route").json()["items"][0]["state"] == "succeeded")
            assert len(before.taken) == 2, "what is sent later goes where the peer is now"
            assert {service.name for service in node.services if "added" in service.name} == {"route /added"}
            assert client.post("/administration/peers/added/remove").status_code == 303
            assert client.post(send, data={"to": "added"}).status_code == 400
            assert [service.name for service in node.services if "added" in service.name] == []
        finally:
            node.stop(5)


def test_peers_that_were_added_stay_without_the_pages_that_added_them(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "root").model_copy(update={"peers": {}})
    with Repository(settings) as store:
        store.actions.by_name["set-peer"](name="ct", who="chief", peer={"ae_title": "CT"})
    off = ExtensionsSettings(disabled=("administration",))
    parts = {"peers": {}, "extensions": off, "web": Web(enabled=False)}
    node = Node(settings_of(tmp_path / "root").model_copy(update=parts))
    endpoints = node.start()
    try:
        assert endpoints.dicom is not None
        here = Address(endpoints.dicom.ae_title, "127.0.0.1", endpoints.dicom.port)
        assert (is_accepted(here, "CT"), is_accepted(here, "STRANGER")) == (True, False)
    finally:
        node.stop(5)


def test_what_would_open_or_hide_a_peer_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "root").model_copy(update={"peers": {}})
    with Repository(settings) as store:
        actions = store.actions.by_name
        actions["set-peer"](name="ct", who="chief", peer={"ae_title": "CT", "host": "127.0.0.1"})
        assert settings.called_peers == ["ct"]
        assert settings.receivers == ["ct"]
        for name, peer in {
            "ct/../x": {"ae_title": "CT"},
            "a": {"ae_title": "A\\B"},
            "b": {"ae_title": "B", "networks": ["10.1.2.0/99"]},
            "c": {"ae_title": "C", "certificate": "c.example.org"},
        }.items():
            with pytest.raises(UsageError):
                actions["set-peer"](name=name, who="chief", peer=peer)
        with pytest.raises(UsageError, match="last peer"):
            actions["remove-peer"](name="ct", who="chief")
        assert list(settings.peers) == ["ct"]
