"""What a plain installation lacks: a configuration that needs it is refused, with what to install."""

import subprocess
import sys
from pathlib import Path

import pytest

from node.children.pseudonyms import new_key_file
from node.registry import EXTRA_MODULES, Extra

ROOT = Path(__file__).resolve().parents[2]

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({modules!r}))
sys.argv[0] = "voxelnode"
from node.cli import main
main()
"""
"""A command of an installation without these modules."""

NEEDS: dict[Extra, list[tuple[str, str]]] = {
    "cluster": [("index: url", '[index]\nurl = "postgresql://voxelnode@127.0.0.1:1/voxelnode"\n')],
    "ocr": [("deidentify.trial: burned_in_text", '[deidentify.trial]\nkey = "trial.key"\nburned_in_text = "refuse"\n')],
    "oidc": [
        ("web.oidc: issuer", '[web.oidc]\nissuer = "https://id.example.org"\nclient_id = "a"\nread = ["staff"]\n')
    ],
    "results": [
        (
            "hooks.a: results",
            '[hooks.a]\nkind = "webhook"\non = ["volume-written"]\nurl = "http://127.0.0.1:9"\nresults = true\n',
        )
    ],
    "s3": [
        ("storage: url", '[storage]\nurl = "s3://scans"\n'),
        ("destinations.CLOUD: s3", '[destinations.CLOUD]\nkind = "s3"\ns3 = "s3://scans"\n'),
    ],
    "webhooks": [
        (
            "hooks.pipeline: a secret that signs messages",
            '[hooks.pipeline]\nkind = "webhook"\non = ["volume-written"]\nurl = "http://127.0.0.1:9"\n'
            'secret_file = "secret"\n',
        )
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "feature", "text", "command"),
    [
        *((extra, *one, ("config", "check")) for extra, several in NEEDS.items() for one in several),
        pytest.param("s3", *NEEDS["s3"][0], ("doctor",), marks=pytest.mark.long),
        ("s3", *NEEDS["s3"][0], ("serve", "--port", "0")),
    ],
)
def test_a_configuration_that_needs_a_missing_library_is_refused(
    tmp_path: Path, extra: Extra, feature: str, text: str, command: tuple[str, ...]
) -> None:
    new_key_file(tmp_path / "trial.key")
    (tmp_path / "voxelnode.toml").write_text(text, encoding="utf-8")
    code = WITHOUT.format(modules=EXTRA_MODULES[extra])
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    reported = f"{feature} needs a library that is not installed: pip install 'voxelnode[{extra}]'"
    assert (done.returncode, done.stderr) == (2, f"voxelnode: voxelnode.toml: {reported}\n")


def test_every_extra_that_a_configuration_may_need_is_here() -> None:
    assert NEEDS.keys() | {"excel", "frames"} == EXTRA_MODULES.keys()
