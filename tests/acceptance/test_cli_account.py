"""``voxelnode account``, on a root that nobody holds and on that of a running node."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from node.index.rows.place import upgrade
from tests.acceptance.served import Served

pytestmark = pytest.mark.slow


PASSWORD = "correct horse battery"


@pytest.fixture
def account(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run ``voxelnode account`` on a root."""

    def run_command(root: Path, *arguments: str, typed: str = "") -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        return run("account", *arguments, "--root", str(root))

    return run_command


def listed(account: Callable[..., Any], root: Path) -> list[dict[str, Any]]:
    return account(root, "list", "--json").json


def test_accounts_are_made_changed_and_removed(account: Callable[..., Any], tmp_path: Path) -> None:
    root = tmp_path / "root"
    upgrade(root / "index.sqlite")
    assert account(root, "add", "anna", "--role", "admin", typed=f"{PASSWORD}\n").status == 0
    assert account(root, "add", "nightly", "--no-password").status == 0
    scope = ("--role", "read", "--route", "dicomweb", "--route", "/api/v1/studies")
    token = account(root, "token", "nightly", "--label", "backup", "--days", "3", *scope)
    assert token.out.startswith("vxn_")
    anna, nightly = listed(account, root)
    assert (anna["name"], anna["role"], anna["password"]) == ("anna", "admin", True)
    assert (nightly["role"], nightly["password"], nightly["tokens"][0]["label"]) == ("read", False, "backup")
    assert nightly["tokens"][0]["routes"] == ["dicomweb", "/api/v1/studies"]
    again = account(root, "token", "nightly", "--label", "backup")
    assert "`voxelnode account revoke nightly --label backup` removes it" in " ".join(again.err.split())
    assert account(root, "token", "nightly", "--label", "more", "--role", "write").status == 2
    assert "neither a group" in account(root, "token", "nightly", "--label", "more", "--route", "dicom").err
    assert "role admin: changed" in account(root, "add", "anna", typed=f"{PASSWORD}!\n").out
    assert account(root, "role", "anna", "write").status == 0
    assert listed(account, root)[0]["role"] == "write"
    assert account(root, "sessions", "anna", "--json").json == []
    assert "0 sessions of anna ended" in account(root, "logout", "anna").out
    assert account(root, "logout", "nobody").status == 2
    assert account(root, "revoke", "nightly", "--label", "backup").status == 0
    assert account(root, "remove", "anna").status == 0
    assert [(one["name"], one["tokens"]) for one in listed(account, root)] == [("nightly", [])]
    audited = (root / "audit.jsonl").read_text()
    assert "done: account anna: role admin" in audited
    for secret in (PASSWORD, token.out.strip()):
        assert secret not in audited


def test_a_mistake_is_reported_and_changes_nothing(account: Callable[..., Any], tmp_path: Path) -> None:
    root = tmp_path / "root"
    upgrade(root / "index.sqlite")
    for arguments, typed, reported in (
        (("add", "a b"), PASSWORD, "is not a valid account name"),
        (("add", "anna"), "short", "12 to 256 characters"),
        (("add", "anna", "--role", "king"), PASSWORD, "'king' is not one of 'read', 'write', 'admin'"),
        (("remove", "anna"), "", "there is no account 'anna'"),
        (("role", "anna", "write"), "", "there is no account 'anna'"),
        (("token", "anna", "--label", "x"), "", "there is no account 'anna'"),
        (("revoke", "anna", "--label", "x"), "", "no account 'anna' has a token 'x'"),
    ):
        done = account(root, *arguments, typed=typed)
        assert done.status == 2, done.err
        assert reported in done.err
        assert "Traceback" not in done.err
    assert listed(account, root) == []


def test_an_account_made_while_the_node_runs_may_log_in_at_once(account: Callable[..., Any], tmp_path: Path) -> None:
    with Served(tmp_path / "root", VOXELNODE_WEB__HOST="127.0.0.1") as served:
        url = served.process.stdout.readline().rpartition(" ")[2].strip()
        assert account(served.root, "add", "anna", typed=PASSWORD).status == 0
        with httpx2.Client(base_url=url, auth=("anna", PASSWORD)) as client:
            assert client.get("/api/v1/status").json()["ae_title"] == "VOXELNODE"
            assert client.delete("/api/v1/studies/1.2").status_code == 403
            assert client.get("/readyz").json() == {"ready": True, "reasons": {}}  # listener and worker too
            assert f"dcmsend -aec VOXELNODE +sd +r --no-halt 127.0.0.1 {served.port}" in client.get("/").text
            assert account(served.root, "remove", "anna").status == 0
            assert client.get("/api/v1/status").status_code == 401
