"""Routes that an administrator adds in a browser, by REST or by a command, at a node that receives and sends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from node.control.repository import Repository
from node.errors import UsageError
from node.index.nouns.added import ADDED
from tests.acceptance.served import until
from tests.peers import Pacs, Proxy
from tests.preloaded import run
from tests.rows import view_rows
from tests.web.added import PAGE, WEB, Started, audited, chief_of, settings_of, signed_in
from tests.web.conftest import DEADLINE_SECONDS, PASSWORD
from tests.web.pages import Visitor, accessibility_faults, start_browser

pytestmark = pytest.mark.slow

NO_SERIES = {"file": {"to": ["pacs"], "where": 'modality == "XX"'}}


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield from start_browser(playwright)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as peer:
        yield peer


def has(pacs: Pacs, uids: list[str]) -> bool:
    return set(uids) <= set(pacs.taken)


def test_a_route_is_tried_added_changed_paused_and_removed_in_the_browser_while_the_node_receives(
    tmp_path: Path, browser: Browser, pacs: Pacs
) -> None:
    settings = settings_of(tmp_path / "root", pacs, web=WEB, routes=NO_SERIES)
    chief_of(settings)
    here = Started(settings)
    visitor = Visitor(browser, here.url)
    try:
        page = signed_in(visitor)
        of_file = page.locator("tr", has=page.get_by_role("rowheader", name="file"))
        expect(of_file).to_contain_text("the configuration")
        expect(page.get_by_text("Change file", exact=True)).to_have_count(0)
        before = here.receive(tmp_path, PatientName="Before^Route")

        page.get_by_text("New route").click()
        added = page.locator("form[action='/administration/added-routes']")
        added.get_by_label("Name", exact=True).fill("night")
        added.get_by_label("pacs").check()
        added.get_by_label("After").select_option("instance-stored")
        added.get_by_label("Series that it is for").fill('modality = "CT"')
        added.get_by_role("button", name="Try").click()
        expect(added.locator(".answer")).to_contain_text("where:")
        added.get_by_label("Series that it is for").fill('modality == "CT"')
        added.get_by_role("button", name="Try").click()
        expect(added.locator(".answer")).to_contain_text("would take 1 of the 1")
        expect(added.locator(".answer")).to_contain_text("Before, Route")
        assert accessibility_faults(page) == []
        added.get_by_role("button", name="Add the route").click()
        row = page.locator("tr", has=page.get_by_role("rowheader", name="night"))
        expect(row).to_contain_text("chief,")
        expect(row).to_contain_text("ready")
        first = here.receive(tmp_path)
        until(lambda: has(pacs, first), DEADLINE_SECONDS, "the next series")
        assert not set(before) & set(pacs.taken), "only what comes from then on"

        row.get_by_role("button", name="Pause").click()
        expect(row).to_contain_text("paused")
        held = here.receive(tmp_path)
        until(lambda: here.states()["night/pacs"]["instances_behind"] == 2, DEADLINE_SECONDS, "it waits")
        here.stop()
        here = Started(settings_of(tmp_path / "root", pacs, web=WEB, routes=NO_SERIES))
        held += here.receive(tmp_path)
        until(lambda: here.states()["night/pacs"]["instances_behind"] == 4, DEADLINE_SECONDS, "it waits")
        assert not set(held) & set(pacs.taken)
        visitor.close()
        visitor = Visitor(browser, here.url)
        page = signed_in(visitor)
        row = page.locator("tr", has=page.get_by_role("rowheader", name="night"))
        row.get_by_role("button", name="Resume").click()
        expect(row).to_contain_text("ready")
        until(lambda: has(pacs, held), DEADLINE_SECONDS, "what waited")
        assert sorted(pacs.taken) == sorted(first + held), "each once"

        page.get_by_text("Change night", exact=True).click()
        changed = page.locator("form[action='/administration/added-routes/night']")
        changed.get_by_label("Series that it is for").fill('modality == "MR"')
        changed.get_by_role("button", name="Try").click()
        expect(changed.locator(".answer")).to_contain_text("would take 0 of the")
        assert accessibility_faults(page) == []
        changed.get_by_role("button", name="Change the route night").click()
        expect(row).to_contain_text('modality == "MR"')
        left_out = here.receive(tmp_path)
        until(lambda: here.states()["night/pacs"]["instances_behind"] == 0, DEADLINE_SECONDS, "it is past them")
        assert not set(left_out) & set(pacs.taken)

        row.get_by_role("button", name="Pause").click()
        expect(row).to_contain_text("paused")
        here.receive(tmp_path)
        until(lambda: here.states()["night/pacs"]["instances_behind"] == 2, DEADLINE_SECONDS, "it waits")
        page.reload()
        page.get_by_text("Change night", exact=True).click()
        expect(page.get_by_text("2 messages wait for this route")).to_be_visible()
        page.get_by_role("button", name="Remove the route night and drop 2 messages that wait").click()
        expect(row).to_have_count(0)
        here.receive(tmp_path)
        assert sorted(pacs.taken) == sorted(first + held), "none after the removal"
        assert "night/pacs" not in here.states()
        told = [line for line in audited(here.root, ": route night: ") if line["participants"][0]["user"] == "chief"]
        assert {line["event"]["type"]["code"] for line in told} == {"110131"}
        details = [line["detail"] for line in told]
        assert details[-2:] == [f"{when}: route night: removed; 2 messages dropped" for when in ("ordered", "done")]
        assert any(re.search(r'^done: route night: .*"where": "modality == \\"MR\\""', one) for one in details), details
        visitor.close()
        assert visitor.complaints == []
        here.stop()
        here = Started(settings_of(tmp_path / "root", pacs))
        here.receive(tmp_path)
        assert here.states() == {}
        assert sorted(pacs.taken) == sorted(first + held)
    finally:
        here.stop()


def test_a_route_to_a_peer_that_was_just_added_sends_at_once_and_follows_its_address(
    tmp_path: Path, pacs: Pacs
) -> None:
    here = Started(settings_of(tmp_path / "root"))
    try:
        peer = {"ae_title": "PACS", "host": "127.0.0.1"}
        here.act("set-peer", name="pacs", who="chief", peer={**peer, "port": 1})
        here.act("set-route", name="all", who="chief", route={"to": ["pacs"], "when": "instance-stored"})
        uids = here.receive(tmp_path)
        until(lambda: here.states()["all/pacs"]["trouble"], DEADLINE_SECONDS, "nobody listens at port 1")
        with pytest.raises(UsageError, match="the route all sends to pacs"):
            here.act("remove-peer", name="pacs", who="chief")
        here.act("set-peer", name="pacs", who="chief", peer={**peer, "port": pacs.port})
        until(lambda: has(pacs, uids), DEADLINE_SECONDS, "what waited for the right address")
        with pytest.raises(UsageError, match="the route all sends to pacs"):
            here.act("set-peer", name="pacs", who="chief", peer={"ae_title": "PACS"})
        before = {worker.lane: worker for worker in here.node._router.workers}
        other = {"to": ["pacs"], "where": 'modality == "MR"'}
        here.act("set-route", name="other", who="chief", route=other)
        after = {worker.lane: worker for worker in here.node._router.workers}
        assert {lane: after[lane] for lane in before} == before, "the workers of other routes go on"
        here.act("remove-route", name="other", who="chief", drops=9)
        assert {worker.lane: worker for worker in here.node._router.workers} == before
        assert here.act("remove-route", name="all", who="chief", drops=9)["removed"] == "all"
        until(lambda: "all/pacs" not in here.states(), DEADLINE_SECONDS, "it is gone")
        [study] = {row["study_instance_uid"] for row in view_rows(here.root, "SELECT study_instance_uid FROM v_images")}
        pacs.forget()
        here.act("send", to="pacs", study_instance_uid=study)
        until(lambda: has(pacs, uids), DEADLINE_SECONDS, "by hand, to a peer that was added")
    finally:
        here.stop()


def test_what_waits_stays_with_a_destination_that_stays_and_is_dropped_only_if_somebody_agrees(
    tmp_path: Path, pacs: Pacs
) -> None:
    settings = settings_of(tmp_path / "root", pacs, destinations={"share": {"folder": tmp_path / "share"}})
    (tmp_path / "share").mkdir()
    here = Started(settings)
    try:
        route: dict[str, Any] = {"when": "instance-stored", "to": ["pacs", "share"]}
        here.act("set-route", name="all", who="chief", route=route)
        here.act("pause-routes", destinations=[["all", "pacs"], ["all", "share"]], paused=True)
        uids = here.receive(tmp_path)
        until(lambda: here.states()["all/share"]["instances_behind"] == 2, DEADLINE_SECONDS, "both wait")
        with pytest.raises(UsageError, match="2 messages wait for the route all"):
            here.act("set-route", name="all", who="chief", route={**route, "to": ["pacs"]})
        with pytest.raises(UsageError, match="4 messages wait for the route all"):
            here.act("set-route", name="all", who="chief", route={**route, "when": "study-quiet"}, drops=3)
        with pytest.raises(UsageError, match="4 messages wait for the route all"):
            here.act("remove-route", name="all", who="chief")
        assert set(here.states()) == {"all/pacs", "all/share"}, "nothing has changed"
        done = here.act("set-route", name="all", who="chief", route={**route, "to": ["pacs"]}, drops=2)
        assert done == {"route": "all", "dropped": 2}
        assert list(here.states()) == ["all/pacs"]
        assert here.states()["all/pacs"]["paused"]
        here.act("pause-routes", destinations=[["all", "pacs"]], paused=False)
        until(lambda: has(pacs, uids), DEADLINE_SECONDS, "what waited for the destination that stayed")
        assert not list((tmp_path / "share").rglob("*.dcm"))
    finally:
        here.stop()


def test_a_change_waits_for_no_peer_that_hangs_and_loses_nothing(tmp_path: Path, pacs: Pacs) -> None:
    with Proxy(pacs.port) as proxy:
        peer = {"ae_title": "PACS", "host": "127.0.0.1", "port": proxy.port}
        here = Started(settings_of(tmp_path / "root", peers={"modality": {"ae_title": "CT1"}, "pacs": peer}))
        try:
            route: dict[str, Any] = {"when": "instance-stored", "to": ["pacs"]}
            here.act("set-route", name="all", who="chief", route=route)
            first = here.receive(tmp_path)
            until(lambda: here.states()["all/pacs"]["delivered"] == len(first), DEADLINE_SECONDS, "all has its answer")
            proxy.is_frozen = True
            held = here.receive(tmp_path)
            [worker] = [one for one in here.node._router.workers if one.lane.name == "all"]
            until(lambda: here.states()["all/pacs"]["instances_behind"] == 2, DEADLINE_SECONDS, "it has no answer")
            here.act("set-route", name="all", who="chief", route={**route, "attempts": 3})
            assert not worker.is_alive, "the connection is cut"
            proxy.is_frozen = False
            until(lambda: has(pacs, held), DEADLINE_SECONDS, "what was under way, by the changed route")
        finally:
            here.stop()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "selector": ({"to": ["pacs"], "where": "modality = CT"}, "where"),
    "field": ({"to": ["pacs"], "where": 'modalty == "CT"'}, "modality"),
    "unknown": ({"to": ["pcs"]}, 'did you mean "pacs"'),
    "nowhere": ({"to": []}, "to"),
    "hours": ({"to": ["pacs"], "between": "25:00-26:00"}, "between"),
    "key": ({"to": ["pacs"], "whre": "x"}, "whre"),
    "deletes": ({"to": ["pacs"], "confirm": True, "delete_confirmed": True}, "written in the configuration"),
    "names": ({"to": ["pacs"], "deidentify": "trial"}, "deidentify"),
    "order": ({"to": ["pacs"], "otherwise": ["nobody"]}, "'nobody' is not a route"),
    "table": ({"to": ["pacs"], "where": {"modality": "CT"}}, "expression"),
    "loop": ({"to": ["self"]}, "our own AE title"),
    "a b": ({"to": ["pacs"]}, "letters, digits"),
    "file": ({"to": ["pacs"]}, "is in the configuration"),
}


def test_a_wrong_selector_an_unknown_peer_and_a_name_of_the_file_are_refused(tmp_path: Path, pacs: Pacs) -> None:
    settings = settings_of(tmp_path / "root", pacs, routes={"file": {"to": ["pacs"]}})
    peers = {**settings.peers, "self": settings.peers["pacs"].model_copy(update={"ae_title": "VOXELNODE"})}
    with Repository(settings.model_copy(update={"peers": peers})) as store:
        actions = store.actions.by_name
        for name, (route, words) in REFUSED.items():
            for action in ("set-route", "try-route"):
                whom = {"who": "chief"} if action == "set-route" else {"series": 1}
                with pytest.raises(UsageError, match=re.escape(words)) as refused:
                    actions[action](name=name, route=route, **whom)
                assert "routes." not in str(refused.value), "the words of the form"
        for name in ("file", "nobody"):
            with pytest.raises(UsageError):
                actions["remove-route"](name=name, who="chief")
        assert store.index.repository(ADDED["routes"]).listed() == []
        actions["set-route"](name="ct", who="chief", route={"to": ["pacs"], "where": 'modality == "CT"'})
        actions["set-route"](name="rest", who="chief", route={"to": ["pacs"], "otherwise": ["ct"]})
        with pytest.raises(UsageError, match=r"routes\.rest"):
            actions["remove-route"](name="ct", who="chief")
        with pytest.raises(UsageError, match=r"routes\.rest"):
            actions["set-route"](name="ct", who="chief", route={"to": ["pacs"]})


def test_a_route_whose_peer_left_the_configuration_keeps_what_waits_until_the_peer_is_back(
    tmp_path: Path, pacs: Pacs
) -> None:
    here = Started(settings_of(tmp_path / "root", pacs))
    try:
        here.act("set-route", name="all", who="chief", route={"to": ["pacs"], "when": "instance-stored"})
        here.act("pause-routes", destinations=[["all", "pacs"]], paused=True)
        uids = here.receive(tmp_path)
        until(lambda: here.states()["all/pacs"]["instances_behind"] == 2, DEADLINE_SECONDS, "it waits")
        here.stop()
        here = Started(settings_of(tmp_path / "root"))
        assert list(here.settings.added.unusable_in("routes")) == ["all"]
        assert here.states()["all/pacs"]["instances_behind"] == 2
        here.stop()
        here = Started(settings_of(tmp_path / "root", pacs))
        here.act("pause-routes", destinations=[["all", "pacs"]], paused=False)
        until(lambda: has(pacs, uids), DEADLINE_SECONDS, "what waited")
    finally:
        here.stop()


def test_administrators_alone_see_and_change_rules_of_routes_by_rest(tmp_path: Path, pacs: Pacs) -> None:
    settings = settings_of(tmp_path / "root", pacs, web=WEB, routes=NO_SERIES)
    chief_of(settings)
    here = Started(settings)
    chief, writer = (httpx2.Client(base_url=here.url, auth=(name, PASSWORD)) for name in ("chief", "writer"))
    route = "/api/v1/route-rules/night"
    rules = {"to": ["pacs"], "when": "instance-stored", "where": 'modality == "CT"'}
    try:
        for method, path in {("GET", "/api/v1/route-rules"), ("PUT", route), ("DELETE", route), ("GET", PAGE)}:
            assert writer.request(method, path, json=rules).status_code == 403, path
        assert writer.post(f"{route}/try", json=rules).status_code == 403
        assert chief.get(route).status_code == 404
        assert chief.put(route, json={"to": ["nobody"]}).status_code == 400
        here.receive(tmp_path)
        tried = chief.post(f"{route}/try", json=rules).json()
        assert (tried["series"], len(tried["taken"])) == (1, 1)
        assert chief.put(route, json=rules).json() == {"route": "night", "dropped": 0}
        uids = here.receive(tmp_path)
        until(lambda: has(pacs, uids), DEADLINE_SECONDS, "what came after the answer")
        shown = chief.get(route)
        assert (shown.json()["changed_by"], shown.json()["rules"]["connections"]) == ("chief", 1)
        assert chief.post(f"{route}/try", params={"series": 1}).json()["series"] == 1
        listed = {one["route"]: one["changed_by"] for one in chief.get("/api/v1/route-rules").json()["items"]}
        assert listed == {"file": None, "night": "chief"}
        keys = chief.get("/administration/configuration", params={"chosen": "true"}).text
        assert re.search(r"routes\.night\.when</code></th>.*?added", keys, flags=re.DOTALL)
        stale = {"If-Match": '"0"'}
        assert chief.put(route, json=rules, headers=stale).status_code == 412
        changed = chief.put(route, json={**rules, "connections": 2}, headers={"If-Match": shown.headers["ETag"]})
        assert changed.status_code == 200
        assert chief.delete("/api/v1/route-rules/file").status_code == 400
        assert chief.delete(route, params={"drops": 9}).json()["removed"] == "night"
        assert chief.delete(route).status_code == 404
    finally:
        chief.close()
        writer.close()
        here.stop()


def test_a_route_says_of_what_it_does_not_send_back_that_it_came_from_there(tmp_path: Path, pacs: Pacs) -> None:
    peers = {"both": {"ae_title": "CT1", "host": "127.0.0.1", "port": pacs.port}}
    here = Started(
        settings_of(tmp_path / "root", peers=peers, routes={"back": {"to": ["both"], "when": "instance-stored"}})
    )
    try:
        here.receive(tmp_path)
        tried = here.act("try-route", name="back", series=9)
        assert (tried["series"], tried["taken"], tried["returns"]) == (1, [], 1)
        sent_back = {"to": ["both"], "return_to_sender": True, "when": "instance-stored"}
        tried = here.act("try-route", name="x", series=9, route=sent_back)
        assert (len(tried["taken"]), tried["returns"]) == (1, 0)
        config = tmp_path / "voxelnode.toml"
        config.write_text(
            f'[peers.both]\nae_title = "CT1"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
            '[routes.back]\nto = ["both"]\nwhen = "instance-stored"\n'
        )
        run("routes", "replay", "back", "--where", "instances > 0", "--config", config, "--root", here.root, check=True)
        query = "SELECT reason FROM v_route_messages WHERE state = 'dropped'"
        until(lambda: bool(view_rows(here.root, query)), DEADLINE_SECONDS, "the message")
        assert "it came from there" in view_rows(here.root, query)[0]["reason"]
    finally:
        here.stop()


def test_commands_do_the_same_with_and_without_a_node(tmp_path: Path, pacs: Pacs) -> None:
    settings = settings_of(tmp_path / "root", pacs)
    config = tmp_path / "voxelnode.toml"
    config.write_text(
        f'[peers.CT1]\nae_title = "CT1"\n[peers.pacs]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
    )
    where = ("--config", config, "--root", settings.storage.root)
    with Repository(settings):
        pass
    run("routes", "set", "night", "to=pacs", "when=instance-stored", 'where=modality == "CT"', *where, check=True)
    here = Started(settings_of(tmp_path / "root", pacs))
    try:
        uids = here.receive(tmp_path)
        until(lambda: has(pacs, uids), DEADLINE_SECONDS, "a route of a command before the start")
        assert "would take 1 of 1 series" in run("routes", "try", "night", *where, check=True).stdout
        assert "would take 0 of" in run("routes", "try", "x", "to=pacs", 'where=modality == "MR"', *where).stdout
        run("routes", "pause", "night", *where, check=True)
        here.receive(tmp_path)
        until(lambda: here.states()["night/pacs"]["instances_behind"] == 2, DEADLINE_SECONDS, "it waits")
        refused = run("routes", "remove", "night", *where)
        assert (refused.returncode, "2 messages wait" in refused.stderr) == (2, True), refused.stderr
        run("routes", "remove", "night", "--drop", "2", *where, check=True)
        assert here.states() == {}
        run("routes", "set", "two", 'to=["pacs"]', "connections=2", *where, check=True)
        assert here.settings.routes["two"].connections == 2
    finally:
        here.stop()
    run("routes", "remove", "two", *where, check=True)
    assert view_rows(settings.storage.root, "SELECT 1 FROM v_routes WHERE route <> ''") == []
