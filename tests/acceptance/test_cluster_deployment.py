"""deploy/helm and deploy/compose.cluster.yaml: what they tell the hosts, and whether Kubernetes would take it."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from node.settings.load import load
from node.settings.model import Settings
from tests.acceptance.served import Served, until
from tests.helm import ENVIRONMENT, Templated, template
from tests.preloaded import run
from tests.programs import needs

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
OPERATORS = ("keda.sh", "monitoring.coreos.com")
"""Groups of resources whose schemas are not those of Kubernetes."""

CHART = DEPLOY / "helm" / "voxelnode"
SERVERS = "postgresql://voxelnode@db1:5432,[fd00::2]:5432/voxelnode?target_session_attrs=read-write&sslmode=require"
EVERYTHING: dict[str, Any] = {
    "index": {"url": SERVERS},
    "objects": {"endpoint": "https://s3.example.org:9000", "region": "eu-central-1", "secret": "voxelnode-objects"},
    "receive": {"root": {"storageClass": "fast"}},
    "convert": {"autoscaling": {"enabled": True}},
    "dicom": {
        "type": "ClusterIP",
        "tlsPort": 104,
        "tlsSecret": "node",
        "annotations": {"example.org/address": "10.1.2.3"},
    },
    "serviceMonitor": {"enabled": True},
    "networkPolicy": {"enabled": True},
}
BY_METRIC: dict[str, Any] = {"convert": {"autoscaling": {"enabled": True, "by": "hpa"}}}


@pytest.fixture(scope="module")
def chart() -> Templated:
    """The chart with its defaults, with everything that it has, and scaled by a metric."""
    return template(CHART, "imaging", [{}, EVERYTHING, BY_METRIC])


def settings_of(environment: dict[str, str], file: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a host in a container."""
    path = folder / "voxelnode.toml"
    path.write_text(file)
    with monkeypatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("VOXELNODE_")]:
            patch.delenv(name)
        patch.setenv("VOXELNODE_DEFAULTS", str(DEPLOY / "container.toml"))
        patch.setenv("VOXELNODE_CONFIG", str(path))
        for name, value in environment.items():
            patch.setenv(name, value)
        return load(None, {})


def hosts_of_chart(manifests: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The environments of the first host of each set, by its name."""
    found = {}
    for manifest in manifests:
        if manifest["kind"] == "StatefulSet":
            name = f"{manifest['metadata']['name']}-0"
            [container] = manifest["spec"]["template"]["spec"]["containers"]
            found[name] = {one["name"]: one.get("value", name) for one in container["env"]}
    return found


@pytest.mark.slow
@pytest.mark.peer
def test_hosts_of_the_chart_and_of_compose_get_roles_and_share_index_and_object_store(
    chart: Templated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = chart.manifests[0]
    [file] = [manifest["data"]["voxelnode.toml"] for manifest in manifests if manifest["kind"] == "ConfigMap"]
    of_chart = hosts_of_chart(manifests)
    services = yaml.safe_load((DEPLOY / "compose.cluster.yaml").read_text())["services"]
    of_compose = {name: one["environment"] for name, one in services.items() if one["image"].startswith("voxelnode:")}
    assert list(of_compose) == ["receive-1", "receive-2", "convert-1", "convert-2"]
    for hosts in (of_chart, of_compose):
        given = {name: settings_of(environment, file, tmp_path, monkeypatch) for name, environment in hosts.items()}
        assert {name: settings.cluster.name for name, settings in given.items()} == {name: name for name in given}
        for name, settings in given.items():
            assert settings.cluster.roles == (("convert" if "convert" in name else "receive"), "web")
        assert len({settings.index.url for settings in given.values()}) == 1
        assert {settings.storage.url for settings in given.values()} == {"s3://voxelnode/archive"}
        assert {str(settings.storage.root) for settings in given.values()} == {"/var/lib/voxelnode"}
    for environment in hosts_of_chart(chart.manifests[1]).values():
        settings = settings_of(environment, file, tmp_path, monkeypatch)
        assert (settings.index.url, settings.dicom.port, settings.dicom.tls_port) == (SERVERS, 11112, 2762)
    [service] = [one for one in chart.manifests[1] if one["metadata"]["name"] == "imaging-dicom"]
    assert [(one["port"], one["targetPort"]) for one in service["spec"]["ports"]] == [
        (11112, "dicom"),
        (104, "dicom-tls"),
    ]


@pytest.mark.peer
def test_receivers_keep_their_disks_and_converters_need_none(chart: Templated) -> None:
    sets = {one["metadata"]["name"]: one["spec"] for one in chart.manifests[0] if one["kind"] == "StatefulSet"}
    [claim] = sets["imaging-receive"]["volumeClaimTemplates"]
    assert (claim["metadata"]["name"], claim["spec"]["accessModes"]) == ("root", ["ReadWriteOnce"])
    assert "volumeClaimTemplates" not in sets["imaging-convert"]
    volumes = {one["name"]: one for one in sets["imaging-convert"]["template"]["spec"]["volumes"]}
    assert volumes["root"] == {"name": "root", "emptyDir": {"sizeLimit": "50Gi"}}
    for one in sets.values():  # a host that is the first process hears no SIGTERM in its first second
        assert one["template"]["spec"]["shareProcessNamespace"] is True


def test_the_balancer_knows_all_receivers() -> None:
    services = yaml.safe_load((DEPLOY / "compose.cluster.yaml").read_text())["services"]
    known = re.findall(r"^ +server (\S+) (\S+):(\d+)$", (DEPLOY / "haproxy.cfg").read_text(), flags=re.MULTILINE)
    receivers = [name for name in services if name.startswith("receive-")]
    assert known == [(name, name, port) for port in ("11112", "8080") for name in receivers]


@pytest.mark.slow
@pytest.mark.peer
def test_helm_and_the_schemas_of_kubernetes_take_the_chart(chart: Templated, tmp_path: Path) -> None:
    assert chart.problems == []
    validate = ENVIRONMENT / "bin" / "kubernetes-validate"
    if not validate.is_file():
        pytest.skip(f"{validate} is not installed")
    for number, manifests in enumerate(chart.manifests):
        assert {one["kind"] for one in manifests} >= {"StatefulSet", "Service", "ConfigMap", "PodDisruptionBudget"}
        own = [one for one in manifests if one["apiVersion"].partition("/")[0] not in OPERATORS]
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump_all(own))
    done = subprocess.run(
        [validate, "--strict", "--quiet", *sorted(tmp_path.glob("*.yaml"))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The steps of docs/deploy.md, done as they stand there.


TEXT = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")


def blocks(section: str) -> Iterator[str]:
    """The indented blocks of one section."""
    body = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", body, flags=re.MULTILINE):
        yield re.sub(r"^    ", "", block.strip("\n"), flags=re.MULTILINE)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A folder with the certificates that the document has a person make, and its configuration."""
    steps = [block for block in blocks("TLS") if "openssl req" in block]
    assert len(steps) == 3
    folder = tmp_path / "certificates"
    folder.mkdir()
    subprocess.run(["bash", "-euc", "\n".join(steps)], cwd=folder, capture_output=True, timeout=60, check=True)
    configuration = next(block for block in blocks("TLS") if block.startswith("[dicom]"))
    (folder / "voxelnode.toml").write_text(configuration.replace("/etc/voxelnode", str(folder)))
    return folder


def test_the_certificates_stand_the_strict_rules_and_are_private(authority: Path) -> None:
    for name in ("node.pem", "ct1.pem"):
        checked = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", "ca.pem", name],
            cwd=authority, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert checked.stdout == f"{name}: OK\n", checked.stderr
    assert [key.name for key in authority.glob("*.key") if key.stat().st_mode & 0o077] == []


@pytest.mark.slow
@pytest.mark.peer
def test_a_sender_with_a_certificate_is_answered_over_tls_and_one_without_is_not(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echoscu = needs("echoscu")
    monkeypatch.setenv("VOXELNODE_CONFIG", str(authority / "voxelnode.toml"))
    assert load(None, {}).dicom.port == 2762
    command = next(
        line for block in blocks("TLS") for line in block.splitlines() if line.startswith("/usr/bin/echoscu")
    )
    with Served(tmp_path / "root") as node:
        arguments = command.replace("2762", str(node.port)).split()[1:]
        done = subprocess.run([echoscu, *arguments], cwd=authority, timeout=60, check=False)
        assert done.returncode == 0
        certificate = arguments.index("+tls")
        arguments[certificate : certificate + 3] = ["+tla"]
        done = subprocess.run([echoscu, *arguments], cwd=authority, timeout=60, check=False)
        assert done.returncode != 0
        until(
            lambda: "Security Alert" in run("audit", "--root", node.root, check=True).stdout,
            20,
            "the audit log tells of the sender without a certificate",
        )
