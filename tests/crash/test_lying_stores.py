"""A node before a store that confirms objects and keeps none is killed, and loses nothing.

The long form, with other lies: ``python -m tests.crash.objects``.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.served import until
from tests.crash.harness import Node
from tests.crash.journal import Journal, new_series
from tests.crash.test_acknowledged import send
from tests.lying_store import KEEPS_NOTHING, lying_store
from tests.object_store import object_store
from tests.preloaded import FIRST_WAIT, STAYS
from tests.rows import read_rows


@pytest.mark.slow
def test_nothing_is_lost_behind_a_store_that_keeps_nothing(tmp_path: Path) -> None:
    root, series, keys = tmp_path / "root", new_series(5), tmp_path / "keys"
    keys.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    with object_store() as server, lying_store(server.url) as lying, closing(Journal(tmp_path / "journal")) as journal:
        server.ask("PUT", "/archive")
        environment = {
            "VOXELNODE_SERIES__QUIET_SECONDS": "3600",
            "VOXELNODE_STORAGE__URL": "s3://archive/one",
            "VOXELNODE_STORAGE__ENDPOINT": lying.url,
            "VOXELNODE_STORAGE__REGION": "us-east-1",
            "VOXELNODE_STORAGE__CREDENTIALS_FILE": str(keys),
            "VOXELNODE_STORAGE__CACHE_BYTES": "0",
            STAYS: "0",
            FIRST_WAIT: "0.3",
        }
        with Node(root, environment=environment) as node:
            assert node.start()
            send(node, new_series(1), journal)
            stored = "SELECT key FROM images WHERE place = 'store'"
            until(lambda: read_rows(root, stored), 60, "an instance in the store, which was tried")
            lying.fault = KEEPS_NOTHING
            send(node, series, journal)
            assert len(journal.acknowledged()) == 6
            until(lambda: node.log.read_text().count("object_not_as_received") >= 5, 60, "each object was looked for")
            node.kill()
            assert len([*root.glob("objects/*/*.dcm")]) >= 5
            lying.fault = None
            assert node.start()
            moving = "SELECT key FROM images WHERE place <> 'store'"
            until(lambda: not read_rows(root, moving), 60, "every instance in the store")
            until(lambda: not [*root.glob("objects/*/*.dcm")], 30, "the copies gone")
        for row in read_rows(root, "SELECT key, bytes, data_set_offset FROM images"):
            assert len(server.ask("GET", f"/archive/one/{row['key']}").content) == row["bytes"] + row["data_set_offset"]
