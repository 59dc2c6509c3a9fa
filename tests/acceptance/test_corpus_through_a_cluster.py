"""Real series into two receivers, converted by two other hosts: one index, one archive, and the same volumes.

Every series arrives in two associations, one with each receiver.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from node.association.client.send import send_files
from node.index.backend import ServerPlace
from node.index.engine import upgrade
from node.receive.dicom_files import MediaFile, SkippedFile, find_instances
from tests.acceptance.served import until
from tests.acceptance.test_cluster import Host
from tests.acceptance.test_corpus_through_the_node import OUT_OF_SCOPE, as_file
from tests.crash.cluster import ROLES, rows
from tests.postgresql import start

pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = [pytest.mark.corpus, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def sent(corpus: Path) -> dict[str, MediaFile]:
    """Every instance of the corpus by its UID (copies of an instance count once)."""
    cases = [folder for folder in sorted(corpus.iterdir()) if folder.is_dir() and folder.name not in OUT_OF_SCOPE]
    return {
        found.identity.sop_instance_uid: found for found in find_instances(cases) if not isinstance(found, SkippedFile)
    }


@pytest.fixture(scope="module")
def converted(sent: dict[str, MediaFile], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A receiver of a cluster that has received the corpus and converted it."""
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as opened:
        server = opened.enter_context(start())
        url = server.create("corpus")
        upgrade(ServerPlace(url, folder / "archive"))
        hosts = {name: opened.enter_context(Host(folder, url, name, roles)) for name, roles in ROLES.items()}
        receivers = [hosts["r1"], hosts["r2"]]
        files = [as_file(one, folder) for one in sent.values()]
        for number, receiver in enumerate(receivers):
            part = files[number::2]
            assert send_files(part, receiver.address, "SENDER") == len(part)
        until(lambda: is_settled(receivers[0], len(sent)), 600, "every instance indexed, every series converted")
        yield receivers[0]


def is_settled(host: Host, instances: int) -> bool:
    open_series = "SELECT 1 FROM v_series WHERE state IN ('receiving', 'converting')"
    indexed = rows(host, "SELECT count(*) AS n FROM v_images")[0]["n"]
    return indexed == instances and not rows(host, open_series)


def test_every_case_is_right_and_every_series_accounted_for(converted: Host, corpus: Path, tmp_path: Path) -> None:
    listing = {
        "volumes": rows(converted, "SELECT * FROM v_volumes WHERE NOT superseded"),
        "refusals": rows(converted, "SELECT series_instance_uid, reason, detail FROM v_failures"),
    }
    (tmp_path / "conversion.json").write_text(json.dumps(listing, default=str))
    done = subprocess.run(
        [sys.executable, str(corpus / "check.py"), str(tmp_path / "conversion.json"), "--failures"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_instances_in_are_slices_out_and_explained_exclusions(converted: Host, sent: dict[str, MediaFile]) -> None:
    explained = rows(
        converted,
        "SELECT sop_instance_uid FROM v_sources UNION SELECT sop_instance_uid FROM v_exclusions UNION "
        "SELECT i.sop_instance_uid FROM v_images i JOIN v_failures f USING (series_instance_uid) WHERE f.stack IS NULL",
    )
    assert sent.keys() <= {row["sop_instance_uid"] for row in explained}


def test_every_series_has_one_current_revision(converted: Host) -> None:
    query = "SELECT series_id FROM conversions WHERE NOT superseded GROUP BY series_id HAVING count(*) > 1"
    assert rows(converted, query) == []
