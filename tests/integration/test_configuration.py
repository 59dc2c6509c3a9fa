"""Changes of the configuration of a node: its files read again, and the file that pages and commands write."""

import base64
import hashlib
import hmac
import json
import logging
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from node.api import Address, Settings, UsageError
from node.association.client.association import NoAssociation, verify
from node.control.configuration import pages_file
from node.control.repository import Repository
from node.index.rows.records import AssociationEnd, Lane
from node.lifecycle.retention import Retention
from node.settings.core import Storage
from node.settings.load import load
from tests.acceptance.served import Served, until
from tests.peers import Pacs
from tests.preloaded import run
from tests.receivers import Answer, Received, Receiver
from tests.rows import view_rows
from tests.web.configured import Started, audited, drop_in, settings_of
from tests.web.conftest import DEADLINE_SECONDS

HERE = {"enabled": False, "hook_networks": ["127.0.0.0/8"]}
SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
STORED = ["instance-stored"]
LANES = [Lane("hook", "x")]
FOLDER = {"kind": "folder", "folder": "/nope"}
WEBHOOK = {"kind": "webhook", "on": STORED, "url": "https://example.org/"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def is_accepted(node: Address, calling: str) -> bool:
    try:
        verify(node, calling, DEADLINE_SECONDS)
    except NoAssociation:
        return False
    return True


def put(here: Started | Repository, table: str, keys: dict[str, Any], **given: Any) -> dict[str, Any]:
    actions = here.node._repository.actions if isinstance(here, Started) else here.actions
    return dict(actions.by_name["set-table"](table=table, keys=keys, who="chief", **given))


def rewritten(root: Path, **tables: Any) -> None:
    """Change the file beside the root by hand."""
    file = root.parent / "voxelnode.toml"
    file.write_text(tomlkit.dumps({**tomlkit.parse(file.read_text()).unwrap(), **tables}))


@pytest.mark.slow
def test_files_that_are_read_again_are_in_force_at_once_and_a_mistake_anywhere_changes_nothing(
    tmp_path: Path, pacs: Pacs, receiver: Receiver
) -> None:
    here = Started(settings_of(tmp_path / "root", pacs, web=HERE))
    level = logging.getLogger().level
    try:
        peers = {"ct9": {"ae_title": "CT9"}, "pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}}
        tables: dict[str, Any] = {
            "peers": peers,
            "routes": {"r": {"to": ["pacs"], "when": "instance-stored"}},
            "hooks": {"h": {"kind": "webhook", "on": STORED, "url": receiver.url}},
            "retention": {"days": 5},
            "log": {"level": "error"},
        }
        rewritten(here.root, **tables, dicom={"host": "127.0.0.1", "port": 0, "idle_seconds": 9})
        assert (is_accepted(here.address, "CT1"), is_accepted(here.address, "CT9")) == (True, False)
        done = here.act("reload", who="chief")
        assert done == {
            "changed": ["hooks.h", "log", "peers.ct9", "peers.modality", "retention", "routes.r"],
            "restart": ["dicom.idle_seconds"],
            "senders": "[peers] lists 2 peers, and 2 of them may store: all other senders are rejected; "
            "the node listens on 127.0.0.1",
        }
        assert (is_accepted(here.address, "CT1"), is_accepted(here.address, "CT9")) == (False, True)
        assert (here.settings.retention.days, logging.getLogger().level) == (5, logging.ERROR)
        uids = here.receive(tmp_path, calling="CT9")
        [series] = view_rows(here.root, "SELECT study_instance_uid, series_instance_uid FROM v_series")
        index, key = here.node._repository.index, (series["study_instance_uid"], series["series_instance_uid"])
        aborted = AssociationEnd("a1", "CT9", "aborted", index.now(), {key: 1}, key, 0.0)
        index.instances.add([], ends=[aborted])
        tables["peers"] = peers | {"ct9": {"ae_title": "CT9", "releases": False}}
        rewritten(here.root, **tables)
        here.act("reload", who="chief")
        [said] = view_rows(here.root, "SELECT detail FROM v_events WHERE kind = 'sender-never-releases'")
        assert said["detail"] == "it never releases, [peers] says"
        until(lambda: set(uids) <= set(pacs.taken), DEADLINE_SECONDS, "the new route")
        receiver.wait_for(2)
        for wrong, words in (
            ({"retention": {"days": -1}}, r"voxelnode.toml: \[retention\] days: -1: must be more than 0"),
            ({"routes": {"r": {"to": ["gone"]}}}, "voxelnode.toml: routes.r: to: 'gone' is neither"),
            ({"routes": {"r": {"to": ["pacs"], "deidentify": "no"}}}, "deidentify"),
            ({"hooks": {"h": {"kind": "command", "on": STORED, "command": ["/nope"]}}}, "/nope"),
            ({"hooks": {"h": {"kind": "npzdir", "on": STORED}}}, "none of .*if an extension adds it, .* and restart"),
            (
                {"peers": {**peers, "twin": {"ae_title": "PACS", "may": ["query"]}}},
                r"peers\.twin: has the AE title of \[peers\.pacs\] and may be the same caller, but differs in may:",
            ),
            ({"peers": {}, "routes": {}}, r"without \[peers\], the node accepts every sender"),
            (
                {"destinations": {"d": {"kind": "folder", "folder": "/nope"}}, "routes": {"r": {"to": ["d"]}}},
                r"^routes\.r needs a restart: what changed in \[destinations\], \[dicom\] takes effect at",
            ),
            ({"npzdir": {"folder": "/nope"}}, "unknown section; if an extension adds it, install that, and restart"),
        ):
            rewritten(here.root, **{**tables, "retention": {"days": 7}, **wrong})
            with pytest.raises(UsageError, match=words):
                here.act("reload", who="chief")
            assert here.settings.retention.days == 5
        assert (is_accepted(here.address, "CT9"), list(here.settings.hooks), here.states().keys()) == (
            True,
            ["h"],
            {"r/pacs"},
        )
        assert len(audited(here.root, "done: configuration: read again")) == 2
    finally:
        logging.getLogger().setLevel(level)
        here.stop()


@pytest.mark.slow
def test_what_is_set_stands_in_a_drop_in_and_is_in_force_without_a_restart(tmp_path: Path) -> None:
    with Pacs() as before, Pacs() as after, Started(settings_of(tmp_path / "root", web=HERE)) as here:
        for pacs in (before, after):
            put(here, "peers.new", {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port})
            put(here, "routes.r", {"to": ["new"], "when": "instance-stored"})
            here.receive(tmp_path)
            until(lambda pacs=pacs: len(pacs.taken) == 2, DEADLINE_SECONDS, "where the peer is now")
        assert len(before.taken) == 2
        assert drop_in(here.root)["routes"] == {"r": {"to": ["new"], "when": "instance-stored"}}
        assert pages_file(here.root).stat().st_mode & 0o777 == 0o600
        assert here.settings.loaded_from.file_of("peers.new") == pages_file(here.root)
        workers = {worker.lane: worker for worker in here.node._router.workers}
        assert put(here, "peers.ct9", {"ae_title": "CT9"})["changed"] == ["peers.ct9"]
        with pytest.raises(UsageError, match=r"has the AE title of \[peers\.ct9\] .* but differs in takes:"):
            put(here, "peers.twin", {"ae_title": "CT9", "takes": ["CTImageStorage"]})
        [doubt] = put(here, "peers.twin", {"ae_title": "PACS", "host": "127.0.0.1"})["warnings"]
        assert doubt.startswith("[peers.new] and [peers.twin] have one AE title and two addresses")
        here.act("remove-table", table="peers.twin", who="chief")
        assert {worker.lane: worker for worker in here.node._router.workers} == workers, "the others stay"
        for table, words in (
            ("peers.modality", "is changed there"),
            ("peers.gone", "somebody has removed it"),
            ("peers.new", "routes.r: to: 'new' is neither"),
        ):
            with pytest.raises(UsageError, match=words):
                here.act("remove-table", table=table, who="chief")
        for table in ("routes.r", "peers.new", "peers.ct9"):
            here.act("remove-table", table=table, who="chief")
        assert (drop_in(here.root), here.states(), list(here.settings.peers)) == ({}, {}, ["modality"])


def test_two_administrators_do_not_overwrite_each_other(tmp_path: Path) -> None:
    with Repository(settings_of(tmp_path / "root", web=HERE)) as store:
        seen = store.actions.by_name["reload"].__wrapped__.__self__._settings.loaded_from.digest  # type: ignore[attr-defined]
        put(store, "hooks.x", WEBHOOK, digest=seen)
        for table, action, given in (
            ("hooks.x", "set-table", {"keys": {**WEBHOOK, "attempts": 3}}),
            ("hooks.y", "set-table", {"keys": WEBHOOK}),
            ("hooks.x", "remove-table", {}),
        ):
            with pytest.raises(UsageError, match="has changed meanwhile: look at it again"):
                store.actions.by_name[action](table=table, who="two", digest=seen, **given)
        assert drop_in(tmp_path / "root") == {"hooks": {"x": WEBHOOK}}
        rewritten(tmp_path / "root", hooks={"file": WEBHOOK})
        put(store, "hooks.y", WEBHOOK)
        with pytest.raises(UsageError, match=r"\[hooks.file\] is set by .*voxelnode.toml"):
            put(store, "hooks.file", WEBHOOK)
    assert sorted(load(tmp_path / "voxelnode.toml").hooks) == ["file", "x", "y"]


def test_a_form_of_files_that_somebody_changed_by_hand_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "root", web=HERE)
    with Repository(settings) as store:
        seen = settings.loaded_from.digest
        rewritten(tmp_path / "root", retention={"days": 3})
        with pytest.raises(UsageError, match="has changed meanwhile"):
            put(store, "hooks.x", WEBHOOK, digest=seen)
        store.actions.by_name["reload"](who="chief")
        put(store, "hooks.x", WEBHOOK, digest=settings.loaded_from.digest)
        assert (settings.retention.days, list(settings.hooks)) == (3, ["x"])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "hooks.command": ({"on": STORED, "command": ["/bin/sh", "-c", "id"]}, "the node runs it"),
    "hooks.plugin": ({"on": STORED, "plugin": "research"}, "the node runs it"),
    "hooks.secret": ({**WEBHOOK, "secret_file": "/etc/shadow"}, "give the secret itself"),
    "hooks.ca": ({**WEBHOOK, "ca_file": "/etc/shadow"}, "names a file of the machine"),
    "hooks.results": ({**WEBHOOK, "results": True}, "writes into the archive"),
    "hooks.nowhere": ({"on": STORED}, "url: must be given"),
    "hooks.event": ({**WEBHOOK, "on": ["stored"]}, "on"),
    "hooks.selector": ({**WEBHOOK, "where": "modality = CT"}, "where"),
    "hooks.empty": ({**WEBHOOK, "where": {}}, "where: is empty"),
    "hooks.key": ({**WEBHOOK, "wher": "x"}, "wher"),
    "hooks.user": ({"on": STORED, "url": "https://a:b@example.org/"}, "must not contain a user name"),
    "hooks.short": ({**WEBHOOK, "secret": "whsec_short"}, "secret"),
    "hooks.letters": ({**WEBHOOK, "secret": "é" * 40}, "secret"),
    "hooks.long": ({**WEBHOOK, "secret": "x" * 5000}, "secret"),
    "hooks.loopback": ({"on": STORED, "url": "http://127.0.0.1:1/"}, "hook_networks"),
    "hooks.metadata": ({"on": STORED, "url": "http://169.254.169.254/latest/"}, "hook_networks"),
    "peers.here": ({"ae_title": "HERE", "host": "127.0.0.1", "port": 22}, "hook_networks"),
    "peers.metadata": ({"ae_title": "CLOUD", "host": "fd20:ce::254", "port": 80}, "hook_networks"),
    "hooks.a b": (WEBHOOK, "letters, digits"),
    "hooks.": (WEBHOOK, "letters, digits"),
    "hooks.q\"'><é": (WEBHOOK, "letters, digits"),
    "hooks.file": ({"attempts": 3}, "is changed there"),
    "peers.ca": ({"ae_title": "A", "tls": True, "tls_ca": "/etc/shadow"}, "names a file of the machine"),
    "peers.title": ({"ae_title": "A" * 17}, "ae_title"),
    "peers.net": ({"ae_title": "B", "networks": ["10.1.2.0/99"]}, "networks"),
    "peers.cert": ({"ae_title": "C", "certificate": "c.example.org"}, "needs \\[dicom\\] tls_certificate"),
    "routes.gone": ({"to": ["gone"]}, "to: 'gone' is neither"),
    "routes.deletes": ({"to": ["pacs"], "confirm": True, "delete_confirmed": True}, "the route deletes"),
    "routes.loop": ({"to": ["self"]}, "own AE title"),
    "retention": ({"trash_days": 0}, "protects from mistakes"),
    "retention.x": ({"days": 1}, "is not set here"),
    "web": ({"host": "0.0.0.0"}, "is not set here"),
    "dicom.x": ({"open": True}, "is not set here"),
}


def test_what_an_account_of_the_pages_may_not_set_is_refused_in_plain_words(tmp_path: Path) -> None:
    file = {"file": {"kind": "webhook", "on": STORED, "url": "http://127.0.0.1:1/"}}
    peers = {"pacs": {"ae_title": "PACS", "host": "127.0.0.1"}, "self": {"ae_title": "VOXELNODE", "host": "127.0.0.1"}}
    with Repository(settings_of(tmp_path / "root", web={"enabled": False}, hooks=file, peers=peers)) as store:
        for table, (keys, words) in REFUSED.items():
            with pytest.raises(UsageError, match=words) as refused:
                put(store, table, keys)
            assert "90-pages" not in str(refused.value), "the words of the form"
            assert "shadow" not in str(refused.value)
        assert not pages_file(tmp_path / "root").exists()


def test_the_last_peer_stays(tmp_path: Path) -> None:
    with Repository(settings_of(tmp_path / "root", web=HERE, peers={})) as store:
        put(store, "peers.ct", {"ae_title": "CT", "host": "127.0.0.1"})
        with pytest.raises(UsageError, match=r"without \[peers\], the node accepts every sender"):
            store.actions.by_name["remove-table"](table="peers.ct", who="chief")
        assert list(drop_in(tmp_path / "root")["peers"]) == ["ct"]


@pytest.mark.slow
def test_a_name_that_leads_to_this_machine_is_sent_nothing_until_the_hook_is_in_another_file(
    tmp_path: Path, receiver: Receiver
) -> None:
    here = Started(settings_of(tmp_path / "root"))
    local = {"on": STORED, "url": receiver.url.replace("127.0.0.1", "localhost")}
    try:
        put(here, "hooks.x", local)
        here.receive(tmp_path)
        until(lambda: waiting(here, "x") > 0, DEADLINE_SECONDS, "it is held back")
        done = here.act("test-hook", name="x", who="chief")
        assert (done["accepted"], "hook_networks" in done["reason"]) == (False, True), done
        assert receiver.received == []
        pages_file(here.root).rename(pages_file(here.root).with_name("50-ours.toml"))
        here.stop()
        here = Started(load(tmp_path / "voxelnode.toml"))
        here.act("retry-deliveries", lanes=LANES)
        receiver.wait_for(2)
    finally:
        here.stop()


def waiting(here: Started, hook: str) -> int:
    return int(view_rows(here.root, f"SELECT waiting FROM v_hooks WHERE hook = '{hook}'")[0]["waiting"])


def is_signed(received: Received) -> bool:
    headers = received.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + received.body
    expected = base64.b64encode(hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()).decode()
    return headers.get("webhook-signature") == f"v1,{expected}"


@pytest.mark.slow
def test_a_secret_does_not_go_to_another_address_and_is_shown_nowhere(tmp_path: Path, receiver: Receiver) -> None:
    with Started(settings_of(tmp_path / "root", web=HERE)) as here:
        hook = {"on": STORED, "url": receiver.url}
        put(here, "hooks.x", {**hook, "secret": SECRET})
        for keys in ({**hook, "url": receiver.url + "/other"}, {**hook, "url": receiver.url + "?x=y"}):
            with pytest.raises(UsageError, match="give the secret for it again"):
                put(here, "hooks.x", keys)
        put(here, "hooks.x", {**hook, "attempts": 3})
        here.receive(tmp_path)
        assert all(map(is_signed, receiver.wait_for(2)))
        put(here, "hooks.x", {**hook, "attempts": 3, "secret": "whsec_" + "B" * 44})
        here.receive(tmp_path)
        assert not any(map(is_signed, receiver.wait_for(4)[2:])), "another secret takes effect, too"
        put(here, "hooks.x", {"url": f"{receiver.url}?token=hidden"}, unset=["secret", "attempts"])
        here.receive(tmp_path)
        assert "webhook-signature" not in receiver.wait_for(6)[-1].headers
        assert not re.search("hidden|whsec", (here.root / "audit.jsonl").read_text())


@pytest.mark.slow
def test_what_waits_stays_with_a_changed_hook_and_is_dropped_only_if_somebody_agrees(tmp_path: Path) -> None:
    with (
        Receiver(lambda received: Answer(500)) as broken,
        Receiver() as whole,
        Started(settings_of(tmp_path / "root", web=HERE)) as here,
    ):
        put(here, "hooks.x", {"on": STORED, "url": broken.url})
        uids = here.receive(tmp_path)
        until(lambda: waiting(here, "x") == 2, DEADLINE_SECONDS, "both wait")
        with pytest.raises(UsageError, match=r"2 messages wait for \[hooks.x\].*--drop 2"):
            here.act("remove-table", table="hooks.x", who="chief", drops=1)
        here.act("pause-deliveries", lanes=LANES, paused=True)
        uids += here.receive(tmp_path)
        with pytest.raises(UsageError, match=r"messages wait for \[hooks.x\]"):
            put(here, "hooks.x", {"on": ["study-quiet"], "url": broken.url})
        put(here, "hooks.x", {"on": STORED, "url": whole.url})
        here.act("pause-deliveries", lanes=LANES, paused=False)
        here.act("retry-deliveries", lanes=LANES)
        until(lambda: set(uids) <= reported(whole), DEADLINE_SECONDS, "what waited, at the new address")
        here.act("pause-deliveries", lanes=LANES, paused=True)
        here.receive(tmp_path)
        assert here.act("remove-table", table="hooks.x", who="chief", drops=9)["dropped"] == 2
        assert audited(here.root, "done: configuration: [hooks.x] removed; 2 messages dropped")


def reported(receiver: Receiver) -> set[str]:
    return {str(one.content["sop_instance_uid"]) for one in receiver.received}


@pytest.mark.slow
def test_a_change_waits_for_no_receiver_that_hangs_and_other_hooks_go_on(tmp_path: Path, receiver: Receiver) -> None:
    never = threading.Event()
    with Receiver(lambda received: Answer(after=never)) as slow:
        file = {"file": {"kind": "webhook", "on": STORED, "url": receiver.url}}
        here = Started(settings_of(tmp_path / "root", web=HERE, hooks=file))
        try:
            put(here, "hooks.x", {"on": STORED, "url": slow.url})
            before = {worker.lane.name: worker for worker in here.node._notifier.workers}
            here.receive(tmp_path)
            slow.wait_for(1)
            put(here, "hooks.x", {"on": STORED, "url": receiver.url + "/x"})
            assert not before["x"].is_alive
            after = {worker.lane.name: worker for worker in here.node._notifier.workers}
            assert after["file"] is before["file"]
            receiver.wait_for(4)
        finally:
            never.set()
            here.stop()


@pytest.mark.slow
def test_rules_of_retention_that_are_set_ask_before_an_unusual_number_goes(tmp_path: Path) -> None:
    with Started(settings_of(tmp_path / "root", web=HERE)) as here:
        [service] = [one for one in here.node.services if isinstance(one, Retention)]

        def waits_for() -> str:
            with here.node._repository.index.reading() as index:
                return index.retention.waits_for or ""

        until(lambda: service._passed_at is not None, DEADLINE_SECONDS, "the first pass")
        for number in range(5):
            here.receive(tmp_path, PatientName=f"Due^{number}")
        put(here, "retention", {"maximum_studies": "1", "only_converted": False})
        service._passed_at = None
        service.wake()
        until(waits_for, DEADLINE_SECONDS, "the pass asks")
        assert waits_for().startswith("4 studies are due at once")
        assert len(view_rows(here.root, "SELECT 1 FROM v_studies")) == 5
        with pages_file(here.root).open("a") as file:
            file.write("trash_days = 3\n")
        put(here, "retention", {"maximum_studies": 2, "only_converted": False})
        assert drop_in(here.root) == {"retention": {"trash_days": 3, "maximum_studies": 2, "only_converted": False}}, (
            "what protects from mistakes stays as somebody has written it"
        )
        until(lambda: not waits_for(), DEADLINE_SECONDS, "nothing is asked by other rules")


def test_a_folder_that_cannot_be_written_makes_the_answer_the_lines_to_add(tmp_path: Path) -> None:
    root = tmp_path / "root"
    settings = settings_of(root, web=HERE)
    with Repository(settings) as store:
        (root / "conf.d").symlink_to("/sys/kernel")
        with pytest.raises(UsageError, match=r"90-pages.toml cannot be written") as refused:
            put(store, "hooks.x", {**WEBHOOK, "secret": SECRET})
        first, *lines = str(refused.value).splitlines()
        assert first.endswith("add these lines to a file of the configuration, and run `voxelnode reload`:")
        assert lines == [
            "[hooks.x]",
            'kind = "webhook"',
            'on = ["instance-stored"]',
            'url = "https://example.org/"',
            'secret = "..."',
        ]
        assert settings.hooks == {}
        assert "not done: configuration: [hooks.x]" in (root / "audit.jsonl").read_text()


def test_several_hosts_are_changed_in_their_files_and_restarted(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "root", web=HERE)
    with Repository(settings) as store:
        shared = {
            "index": {"url": "postgresql://v@db/v"},
            "storage": {"root": str(tmp_path / "root"), "url": "file:///srv"},
        }
        of_several = Settings.model_validate({**settings.model_dump(exclude={"index", "storage"}), **shared})
        store.actions.by_name["set-table"].__wrapped__.__self__._settings = of_several  # type: ignore[attr-defined]
        with pytest.raises(UsageError, match=r"several hosts may share this index: change \[hooks\]"):
            put(store, "hooks.x", WEBHOOK)


@pytest.mark.slow
def test_commands_write_the_drop_in_of_a_node_that_runs_or_not_and_sighup_reads_it_again(tmp_path: Path) -> None:
    root, file = tmp_path / "root", tmp_path / "root" / "conf.d" / "10-ours.toml"
    where = ("--root", root)
    refused = run("reload", *where)
    assert (refused.returncode, "no folder" in refused.stderr) == (2, True)
    with Served(root) as node:
        assert run("peers", "set", "ct", "ae_title=ANY", *where, check=True).stdout == (
            "in force: peers.ct\nneeds a restart of the node: dicom.host\n"
            "ct may echo, store, query, retrieve, commit, worklist, mpps (everything, for `may` is not set)\n"
            "[peers] lists 1 peer, and it may store: all other senders are rejected; "
            "the node listens on every address\n"
        )
        secret = tmp_path / "secret"
        secret.write_text(SECRET)
        hook = ("hooks", "set", "mail", "on=instance-stored", "url=https://example.org/", "--secret-file", secret)
        assert json.loads(run(*hook, "--json", *where, check=True).stdout)["changed"] == ["hooks.mail"]
        shown = run("config", "show", *where, check=True).stdout
        assert re.search(r"peers.ct +ae_title +\"ANY\" +\S+/conf.d/90-pages.toml", shown)
        assert SECRET not in shown
        refused = run("hooks", "set", "mail", "on=instance-stored", "url=https://example.org/", "secret=x", *where)
        assert (refused.returncode, "others see a command line" in refused.stderr) == (2, True)
        file.write_text("[retention]\ndays = 9\n")
        node.process.send_signal(signal.SIGHUP)
        until(lambda: "retention" in log_of(tmp_path), 30, "SIGHUP")
        file.write_text("[retention]\ndays = -9\n")
        node.process.send_signal(signal.SIGHUP)
        until(lambda: "configuration_refused" in log_of(tmp_path), 30, "SIGHUP with a mistake")
        refused = run("reload", *where)
        assert (refused.returncode, f"{file}: [retention] days: -9" in refused.stderr) == (2, True)
        file.write_text("[web]\nport = 1\n")
        done = json.loads(run("reload", "--json", *where, check=True, environment={"VOXELNODE_WEB__PORT": "0"}).stdout)
        assert done == {"changed": ["retention"], "restart": ["dicom.host"]}, "the environment is above files"
        assert node.terminate() == 0
    refused = run("reload", *where)
    assert (refused.returncode, "the next start reads the configuration" in refused.stderr) == (2, True)
    run("retention", "set", "days=3", "dry_run=true", *where, check=True)
    assert "dry_run is set: a pass deletes none" in run("retention", *where, check=True).stdout
    done = run("retention", "set", "--unset", "dry_run", *where, check=True).stdout
    assert done == "in force: retention\ndry_run was true, now the default: false\n"
    assert run("hooks", "remove", "mail", *where, check=True).stdout == "removed: hooks.mail\nin force: hooks.mail\n"
    assert drop_in(root) == {"peers": {"ct": {"ae_title": "ANY"}}, "retention": {"days": 3}}
    run("retention", "remove", *where, check=True)
    assert drop_in(root) == {"peers": {"ct": {"ae_title": "ANY"}}}


@pytest.mark.slow
def test_a_command_leaves_other_keys_as_they_are_and_tells_what_it_has_removed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    where = ("--root", root)
    with Repository(Settings(storage=Storage(root=root, reserve_bytes=0))):
        pass
    peer = ("ct", "ae_title=CT1", "host=192.0.2.1", "port=11112", "may=echo,query", "projects=p1")
    assert "\nct may echo, query\n" in run("peers", "set", *peer, *where, check=True).stdout
    refused = run("peers", "set", "ct", "projects=", *where)
    assert (refused.returncode, "projects: is empty" in refused.stderr) == (2, True)
    run("peers", "set", "ct", "port=104", *where, check=True)
    kept = {"ae_title": "CT1", "host": "192.0.2.1", "port": 104, "may": ["echo", "query"], "projects": ["p1"]}
    assert drop_in(root)["peers"] == {"ct": kept}
    done = run("peers", "set", "ct", "--unset", "projects", *where, check=True).stdout
    assert 'projects was ["p1"], now the default: unset\n' in done
    assert audited(root, 'done: configuration: [peers.ct] {}; removed: {"projects": ["p1"]}')
    assert "projects: is not set here" in run("peers", "set", "ct", "--unset", "projects", *where).stderr
    assert "give KEY=VALUE" in run("peers", "set", "ct", *where).stderr
    assert "keep a peer" in run("peers", "remove", "ct", *where).stderr
    run("peers", "set", "mr", "ae_title=MR1", *where, check=True)
    assert "removed: peers.ct\n" in run("peers", "remove", "ct", *where, check=True).stdout
    assert list(drop_in(root)["peers"]) == ["mr"]
    rules = ("retention", "set", "days=90")
    run(*rules, 'keep_where=modality == "MR"', *where, check=True)
    assert "was" not in run(*rules, *where, check=True).stdout
    assert "keep_where was" in run(*rules, "--unset", "keep_where", *where, check=True).stdout
    assert "maximum_percent: is unknown; known: days, " in run("retention", "set", "maximum_percent=1", *where).stderr
    with pages_file(root).open("a") as file:
        file.write("trash_days = 30\n")
    run("retention", "remove", *where, check=True)
    assert drop_in(root)["retention"] == {"trash_days": 30}, "what nobody sets here stays"
    guarded = run("retention", "set", "maximum_share=1", *where).stderr
    assert "maximum_share: write the table into voxelnode.toml: it protects from mistakes" in guarded


def log_of(folder: Path) -> str:
    return (folder / "serve.log").read_text()
