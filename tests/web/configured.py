"""A node with an administrator, for tests of changes of its configuration."""

import json
import tomllib
from pathlib import Path
from typing import Any, Self

import tomlkit
from playwright.sync_api import Page

from node.api import Address, Role, Settings, send_files
from node.control.configuration import pages_file
from node.control.node import Node
from node.control.repository import Repository
from node.settings.load import load
from tests import make
from tests.peers import Pacs
from tests.rows import view_rows
from tests.waiting import until
from tests.web.conftest import DEADLINE_SECONDS, PASSWORD, hash_once
from tests.web.pages import Visitor

PAGE = "/administration/connections"
WEB = {"port": 0, "authentication": "always"}


def settings_of(root: Path, pacs: Pacs | None = None, **tables: Any) -> Settings:
    """Settings that were read from a file beside the root."""
    peers: dict[str, Any] = {"modality": {"ae_title": "CT1"}}
    if pacs is not None:
        peers["pacs"] = {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}
    values: dict[str, Any] = {
        "storage": {"root": str(root), "reserve_bytes": 0},
        "dicom": {"host": "127.0.0.1", "port": 0},
        "web": {"enabled": False},
        "peers": peers,
    }
    file = root.parent / "voxelnode.toml"
    file.write_text(tomlkit.dumps({**values, **tables}))
    return load(file)


def drop_in(root: Path) -> dict[str, Any]:
    """What the pages have written."""
    return tomllib.loads(pages_file(root).read_text())


class Started:
    """A node, and what sends to it and looks at it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.node = Node(settings)
        endpoints = self.node.start()
        self.address = Address(endpoints.dicom.ae_title, "127.0.0.1", endpoints.dicom.port)
        self.url = endpoints.web or ""
        self.root = settings.storage.root

    def receive(self, folder: Path, calling: str = "CT1", **attributes: Any) -> list[str]:
        """Send a series of two images to it; return their UIDs once the index has them."""
        series = make.ct_series(2, **attributes)
        send_files(make.saved(series, folder), self.address, calling)
        uids = [str(ds.SOPInstanceUID) for ds in series]
        until(lambda: set(uids) <= self.received(), DEADLINE_SECONDS, "the rows of what it took")
        return uids

    def received(self) -> set[str]:
        return {row["sop_instance_uid"] for row in view_rows(self.root, "SELECT sop_instance_uid FROM v_images")}

    def states(self) -> dict[str, dict[str, Any]]:
        """The destinations of its routes by the names of both."""
        rows = view_rows(self.root, "SELECT * FROM v_routes WHERE route <> ''")
        return {f"{row['route']}/{row['destination']}": row for row in rows}

    def act(self, action: str, **arguments: Any) -> dict[str, Any]:
        return dict(self.node._repository.actions.by_name[action](**arguments))

    def stop(self) -> None:
        self.node.stop(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def chief_of(settings: Settings) -> None:
    with Repository(settings) as store:
        store.index.accounts.set("chief", Role.ADMIN, hash_once(PASSWORD), store.ingest.now())
        store.index.accounts.set("writer", Role.WRITE, hash_once(PASSWORD), store.ingest.now())


def signed_in(visitor: Visitor, place: str = PAGE) -> Page:
    page = visitor.open("/login")
    page.locator("input[name=name]").fill("chief")
    page.locator("input[name=password]").fill(PASSWORD)
    page.locator("input[name=password]").press("Enter")
    page.wait_for_url(lambda url: "/login" not in url)
    page.goto(place)
    return page


def audited(root: Path, what: str) -> list[dict[str, Any]]:
    whole, _, _ = (root / "audit.jsonl").read_text().rpartition("\n")
    return [line for line in map(json.loads, whole.splitlines()) if what in line.get("detail", "")]
