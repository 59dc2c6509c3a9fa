"""Charts as Helm itself reads them: its library comes with a package of tests/interop/requirements.txt."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ENVIRONMENT = Path(os.environ.get("VOXELNODE_CLIENT_VENV", Path(__file__).parent / "interop" / ".venv"))

_PROGRAM = """
import json, sys
from helm_python import Chart, lint
path, release, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
with Chart.load(path) as chart:
    rendered = [chart.render(values, name=release, is_install=True) for values in given]
messages = [one for values in given for one in lint(path, values, strict=True)["messages"]]
json.dump({"rendered": rendered, "messages": messages}, sys.stdout)
"""

WARNING = 2


@dataclass(frozen=True)
class Templated:
    """What `helm template` makes with each set of values, and the warnings and errors of `helm lint --strict`."""

    manifests: list[list[dict[str, Any]]]
    problems: list[str]


def template(chart: Path, release: str, values: Sequence[Mapping[str, Any]]) -> Templated:
    """Render and lint a chart with each of these sets of values; skips the test if Helm is not installed."""
    if not any(ENVIRONMENT.glob("lib/python*/site-packages/helm_python")):
        pytest.skip(f"helm-python-sdk is not installed in {ENVIRONMENT}")
    command = [ENVIRONMENT / "bin" / "python", "-c", _PROGRAM, chart, release, json.dumps(values)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    manifests = [
        [found for text in files.values() for found in yaml.safe_load_all(text) if found is not None]
        for files in answer["rendered"]
    ]
    problems = [f"{one['path']}: {one['error']}" for one in answer["messages"] if one["severity"] >= WARNING]
    return Templated(manifests, problems)
