"""The pods of deploy/helm as processes: their arguments, environment, files and probes as Helm renders them.

Addresses, ports and folders are those of the test; each port of the container is one that the system chooses.
"""

import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from node.index.reading import reading
from tests import make
from tests.acceptance.served import READY, send, until
from tests.acceptance.test_cluster import in_folder, store_of
from tests.acceptance.test_cluster_deployment import CHART, DEPLOY
from tests.helm import template
from tests.postgresql import start
from tests.preloaded import Process, run

pytestmark = [
    pytest.mark.sqlite("has a database of its own"),
    pytest.mark.slow,
    pytest.mark.peer,
    pytest.mark.timeout(600),
]

CONFIG = """
[dicom]
host = "127.0.0.1"
open = true

[series]
quiet_seconds = 1

[convert]
formats = ["nifti"]
"""
SECRETS = {
    "voxelnode-index": {"password": "of the index"},
    "voxelnode-objects": {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "of the bucket"},
}
DEFAULTS = "/etc/voxelnode/container.toml"


class Pod:
    """The first pod of a stateful set: its container as a process, its volumes as folders below one."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], manifests: list[dict[str, Any]]) -> None:
        self.name = f"{manifest['metadata']['name']}-0"
        self.folder = folder / self.name
        self.folder.mkdir(parents=True)
        spec = manifest["spec"]["template"]["spec"]
        [self.container] = spec["containers"]
        claims = {one["metadata"]["name"]: one for one in manifest["spec"].get("volumeClaimTemplates", [])}
        self._volumes = claims | {one["name"]: one for one in spec["volumes"]}
        maps = {one["metadata"]["name"]: one["data"] for one in manifests if one["kind"] == "ConfigMap"}
        self._places = {DEFAULTS: self.folder / "container.toml"}
        for mount in self.container["volumeMounts"]:
            self._places[mount["mountPath"]] = self._mounted(mount, maps)
        self._write(self._places[DEFAULTS], (DEPLOY / "container.toml").read_text())
        self.environment = {**self._of_image(), **{one["name"]: self._value(one) for one in self.container["env"]}}
        self.process: Process | None = None
        self.ports: dict[str, int] = {}

    def _mounted(self, mount: Mapping[str, Any], maps: Mapping[str, Mapping[str, str]]) -> Path:
        place = self.folder / mount["name"]
        place.mkdir()
        if (source := self._volumes[mount["name"]].get("configMap")) is None:
            return place
        for name, text in maps[source["name"]].items():
            self._write(place / name, text)
        return place / mount["subPath"]

    def _write(self, path: Path, text: str) -> None:
        """Write a file of the configuration, with paths and addresses of the test."""
        for mounted, place in self._places.items():
            text = text.replace(f'"{mounted}', f'"{place}')
        path.write_text(text.replace("0.0.0.0", "127.0.0.1"))

    def _of_image(self) -> dict[str, str]:
        found = re.findall(r"(?m)^ +(VOXELNODE_\w+)=(\S+)", (DEPLOY / "Containerfile").read_text())
        assert {name for name, _ in found} == {"VOXELNODE_CONFIG", "VOXELNODE_DEFAULTS"}
        return {name: str(self._places[value]) for name, value in found}

    def _value(self, variable: Mapping[str, Any]) -> str:
        ports = {str(one["containerPort"]) for one in self.container["ports"]}
        match variable:
            case {"name": name, "value": str(value)}:
                if name.endswith("PORT"):
                    assert value in ports
                    return "0"
                return value
            case {"valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}:
                return SECRETS[secret][key]
            case {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}:
                return self.name
        raise AssertionError(variable)

    def start(self) -> None:
        with (self.folder / "log").open("a") as log:
            self.process = Process(self.container["args"], self.environment, log, self._places["/var/lib/voxelnode"])
        for line in self.process.stdout:
            if (ready := READY.fullmatch(line.strip())) is not None:
                self.ports["dicom"] = int(ready[3])
            if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)) is not None:
                self.ports["web"] = int(found[1])
                return
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def probe(self, name: str) -> int:
        """Return the status of a probe, as its kubelet asks."""
        asked = self.container[name]["httpGet"]
        return httpx2.get(f"http://127.0.0.1:{self.ports[asked['port']]}{asked['path']}", timeout=60).status_code

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def ended(*pods: Pod) -> Iterator[None]:
    try:
        yield
    finally:
        for pod in pods:
            if pod.process is not None:
                pod.process.kill()
                pod.process.wait()
                pod.process.stdout.close()


@pytest.mark.long
def test_pods_of_the_chart_receive_and_convert_and_a_killed_converter_comes_back_with_an_empty_disk(
    tmp_path: Path,
) -> None:
    series = [make.ct_series(4) for _ in range(2)]
    with start() as server:
        url = server.create("chart")
        values = {
            "index": {"url": url},
            "objects": {"url": in_folder(tmp_path)["URL"], "secret": "voxelnode-objects"},
            "config": CONFIG,
        }
        [manifests] = template(CHART, "imaging", [values]).manifests
        sets = {one["metadata"]["name"]: one for one in manifests if one["kind"] == "StatefulSet"}
        receiver, converter = (Pod(tmp_path, sets[f"imaging-{role}"], manifests) for role in ("receive", "convert"))
        with ended(receiver, converter):
            run("account", "add", "anna", "--no-password", environment=converter.environment, check=True)
            receiver.start()
            converter.start()
            for pod in (receiver, converter):
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    until(lambda pod=pod, probe=probe: pod.probe(probe) == 200, 60, f"{probe} of {pod.name}")

            def converted(one: list[Any]) -> bool:
                with reading(tmp_path, url) as index:
                    return [row["state"] for row in index.series.with_uid(str(one[0].SeriesInstanceUID))] == [
                        "converted"
                    ]

            send(receiver.ports["dicom"], *series[0])
            until(lambda: converted(series[0]), 120, "the volume of a series")
            converter.end(signal.SIGKILL)
            send(receiver.ports["dicom"], *series[1])
            again = Pod(tmp_path / "again", sets["imaging-convert"], manifests)
            with ended(again):
                again.start()
                until(lambda: converted(series[1]), 120, "the volume of a series that came meanwhile")
                # The first is made again if the kill came before it was in the store.
                until(lambda: len([*store_of(tmp_path).rglob("*.nii.gz")]) == 2, 120, "both volumes in the store")
                assert again.end(signal.SIGTERM) == 0
            assert receiver.end(signal.SIGTERM) == 0
