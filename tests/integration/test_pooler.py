"""PgBouncer between a node and PostgreSQL: it drops the settings of sessions, and is refused."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.index.rows.backend import IndexUnusable, ServerPlace
from node.index.rows.place import upgrade
from tests.postgresql import Server, start
from tests.programs import needs
from tests.waiting import until

pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = [pytest.mark.sqlite("has a server of its own"), pytest.mark.slow, pytest.mark.peer]

CONFIGURATION = """
[databases]
* = host={server}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users
pool_mode = {mode}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with start() as server:
        yield server


@contextmanager
def pooled(server: Server, mode: str, more: str = "") -> Iterator[Path]:
    """Run PgBouncer; yields the folder of its socket, beside that of the server, where every account can go."""
    folder = server.folder
    (folder / "users").write_text('"voxelnode" ""\n')
    (folder / "ini").write_text(CONFIGURATION.format(server=folder, folder=folder, mode=mode) + more)
    owner = folder.stat().st_uid
    for name in ("users", "ini"):
        (folder / name).chmod(0o644)  # a test before may have set a umask
    command = [needs("pgbouncer", "pgbouncer"), "--quiet", folder / "ini"]
    process = subprocess.Popen(command, user=owner, stderr=subprocess.DEVNULL)
    try:
        until((folder / ".s.PGSQL.6432").is_socket, 30, "the socket of PgBouncer")
        yield folder
    finally:
        process.kill()
        process.wait()
        (folder / ".s.PGSQL.6432").unlink()


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("", "unsupported startup parameter: options"),
        ("ignore_startup_parameters = options\n", "has not taken the settings of the session"),
    ],
)
def test_a_pooler_that_drops_the_settings_of_a_session_is_refused(
    server: Server, tmp_path: Path, mode: str, more: str, reason: str
) -> None:
    """Commits would be as durable as the server has it by default, and locks would be waited for without limit."""
    server.create("pooled")
    try:
        with pooled(server, mode, more) as folder, pytest.raises(IndexUnusable, match=reason):
            upgrade(ServerPlace(f"postgresql://voxelnode@/pooled?host={folder}&port=6432", tmp_path))
        upgrade(ServerPlace(server.url("pooled"), tmp_path))
    finally:
        server.run("DROP DATABASE pooled WITH (FORCE)")
