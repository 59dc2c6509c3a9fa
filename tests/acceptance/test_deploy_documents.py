"""The steps of docs/deploy.md, done as they stand there."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.settings.load import load
from tests.acceptance.served import Served, until
from tests.preloaded import run
from tests.programs import needs

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
