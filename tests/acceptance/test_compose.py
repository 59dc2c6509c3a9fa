"""The services of deploy/compose.cluster.yaml as processes: real ones but for the object store, which is moto."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from node.index.reading import reading
from tests import make
from tests.acceptance.served import Served, send, until
from tests.acceptance.test_balancer import CONFIGURATION, Receiver, balancing
from tests.object_store import object_store
from tests.postgresql import start

SERVICES = yaml.safe_load((CONFIGURATION.parent / "compose.cluster.yaml").read_text())["services"]

pytestmark = [pytest.mark.sqlite("has databases of its own"), pytest.mark.long, pytest.mark.timeout(600)]


class OfCompose(Receiver):
    """A host with the environment of its service."""

    def __init__(self, folder: Path, name: str, url: str, endpoint: str) -> None:
        self.name, self.url = name, url
        given = {key: value for key, value in SERVICES[name]["environment"].items() if "${" not in value}
        here = {
            "AWS_SECRET_ACCESS_KEY": "secret",
            "VOXELNODE_INDEX__URL": url,
            "VOXELNODE_STORAGE__ENDPOINT": endpoint,
            "VOXELNODE_CLUSTER__LEASE_SECONDS": "6",
            "VOXELNODE_CONVERT__FORMATS": '["nifti"]',
        }
        Served.__init__(self, folder / name, **{**given, **here})


def test_two_receivers_and_two_converters_share_one_object_store(tmp_path: Path) -> None:
    series = [make.ct_series(6) for _ in range(12)]
    uids = [one[0].SeriesInstanceUID for one in series]
    with start() as server, object_store() as store, ExitStack() as running:
        store.ask("PUT", "/voxelnode")
        url = server.create("voxelnode")
        names = [name for name, service in SERVICES.items() if service["image"].startswith("voxelnode:")]
        hosts = {name: running.enter_context(OfCompose(tmp_path, name, url, store.url)) for name in names}
        first, second = hosts["receive-1"], hosts["receive-2"]
        balancer = running.enter_context(balancing(tmp_path, first, second))
        until(lambda: all(state == {"UP"} for state in balancer.states().values()), 60, "both receivers in use")
        for one in series[:6]:
            send(balancer.dicom.port, *one)
        first.kill()
        hosts["convert-1"].kill()
        for one in series[6:]:
            send(balancer.dicom.port, *one)
        first.start()  # it alone may have instances of the first series

        def are_converted() -> bool:
            with reading(second.root, url) as index:
                return [row["state"] for uid in uids for row in index.series.with_uid(uid)] == ["converted"] * len(uids)

        def is_moved() -> bool:
            with reading(second.root, url) as index:
                return not any(row["spooled_instances"] for row in index.hosts.all(index.hosts.now()))

        until(are_converted, 300, "every series converted")
        until(is_moved, 60, "every instance in the store")
