"""The public page of names costs nothing before it is used (`node.api`)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_loads_nothing_before_a_name_is_used() -> None:
    program = "import sys, node.api; print(*sorted(name for name in sys.modules if name.split('.')[0] == 'node'))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.split() == ["node", "node.api", "node.version"]
