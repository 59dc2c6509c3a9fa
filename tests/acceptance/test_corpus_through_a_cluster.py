"""Real series into two receivers, converted by two other hosts: one index, one object store, and the same volumes.

Every series arrives in two associations, one with each receiver. The store is a folder or a bucket of S3, from which
the volumes are read.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node.association.client.send import send_files
from node.index.rows.backend import ServerPlace
from node.index.rows.place import upgrade
from node.receive.dicom_files import MediaFile
from tests.acceptance.test_cluster import Host, store_of
from tests.acceptance.test_corpus_through_the_node import as_file, require_right, sent
from tests.object_store import ObjectStore, object_store
from tests.postgresql import start
from tests.waiting import until

__all__ = ["sent"]

pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = [pytest.mark.corpus, pytest.mark.long, pytest.mark.timeout(900)]


ROLES = {"r1": '["receive"]', "r2": '["receive"]', "c1": '["convert"]', "c2": '["convert"]'}


@dataclass
class Cluster:
    """What has received the corpus and converted it; `folder` has the volumes."""

    receiver: Host
    folder: Path
    store: ObjectStore | None

    def volumes(self) -> list[dict[str, Any]]:
        """The rows of current volumes, whose paths lead to copies of the objects."""
        found = self.receiver.rows("SELECT * FROM v_volumes WHERE NOT superseded")
        for row in self.receiver.rows("SELECT key FROM revision_files"):
            copy = self.folder / row["key"]
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(self.content(row["key"]))
        return [row | {"path": str(self.folder / "volumes" / row["path"].partition("/volumes/")[2])} for row in found]

    def content(self, key: str) -> bytes:
        if self.store is not None:
            return self.store.ask("GET", f"/archive/one/{key}").content
        return (store_of(self.folder.parent) / key).read_bytes()


@pytest.fixture(scope="module", params=["folder", "S3"])
def converted(
    sent: dict[str, MediaFile], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as opened:
        url = opened.enter_context(start()).create("corpus")
        upgrade(ServerPlace(url, folder))
        store = opened.enter_context(object_store()) if request.param == "S3" else None
        storage = None if store is None else in_bucket(store, folder)
        hosts = {name: opened.enter_context(Host(folder, url, name, roles, storage)) for name, roles in ROLES.items()}
        receivers = [hosts["r1"], hosts["r2"]]
        files = [as_file(one, folder) for one in sent.values()]
        for number, receiver in enumerate(receivers):
            part = files[number::2]
            assert send_files(part, receiver.address, "SENDER") == len(part)
        until(lambda: is_settled(receivers[0], len(sent)), 600, "every instance indexed, every series converted")
        until(lambda: not receivers[0].rows(NOT_MOVED), 120, "every file in the store")
        yield Cluster(receivers[0], folder / "copies", store)


NOT_MOVED = (
    "SELECT key FROM images WHERE place IS DISTINCT FROM 'store' UNION ALL "
    "SELECT key FROM revision_files WHERE place IS DISTINCT FROM 'store'"
)


def in_bucket(store: ObjectStore, folder: Path) -> dict[str, str]:
    """Make a bucket; return the settings of hosts that share it, with copies of few files only."""
    store.ask("PUT", "/archive")
    keys = folder / "keys"
    keys.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    place = {"URL": "s3://archive/one", "ENDPOINT": store.url, "REGION": "us-east-1"}
    return place | {"CREDENTIALS_FILE": str(keys), "CACHE_BYTES": "1000000"}


def is_settled(host: Host, instances: int) -> bool:
    open_series = "SELECT 1 FROM v_series WHERE state IN ('receiving', 'converting')"
    indexed = host.rows("SELECT count(*) AS n FROM v_images")[0]["n"]
    return indexed == instances and not host.rows(open_series)


def test_every_case_is_right_and_every_series_accounted_for(converted: Cluster, corpus: Path, tmp_path: Path) -> None:
    refusals = converted.receiver.rows("SELECT series_instance_uid, reason, detail FROM v_failures")
    require_right(corpus, tmp_path, converted.volumes(), refusals)


def test_instances_in_are_slices_out_and_explained_exclusions(converted: Cluster, sent: dict[str, MediaFile]) -> None:
    explained = converted.receiver.rows(
        "SELECT sop_instance_uid FROM v_sources UNION SELECT sop_instance_uid FROM v_exclusions UNION "
        "SELECT i.sop_instance_uid FROM v_images i JOIN v_failures f USING (series_instance_uid) "
        "WHERE f.stack IS NULL"
    )
    assert sent.keys() <= {row["sop_instance_uid"] for row in explained}


def test_every_series_has_one_current_revision(converted: Cluster) -> None:
    query = "SELECT series_id FROM conversions WHERE NOT superseded GROUP BY series_id HAVING count(*) > 1"
    assert converted.receiver.rows(query) == []
