"""Write the bill of materials of an installed voxelnode (CycloneDX, JSON), and refuse licences that do not fit.

    .venv/bin/python .ci/bill_of_materials.py INTERPRETER FILE

INTERPRETER belongs to an environment that has voxelnode and nothing else. What the node carries itself, such as the
scripts of its pages, is read from the table beside it. No network is needed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VENDORED = ROOT / "node/extensions/pages/static/vendor/LICENSES.md"

TOOLS = {"pip", "setuptools", "wheel"}
"""What every environment has beside."""

COPYLEFT = re.compile(r"GPL|GNU|MPL|Mozilla|EUPL|CDDL|EPL|Eclipse|OSL|SSPL|CC-BY-SA|CECILL", re.IGNORECASE)


def main(interpreter: str, target: Path) -> None:
    """Write the bill; exit with a message if a component has no licence, or one that does not fit."""
    command = ["-m", "cyclonedx_py", "environment", "--output-reproducible", "--output-format", "JSON", interpreter]
    made = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    bill = json.loads(made.stdout)
    bill["components"] = [part for part in bill["components"] if part["name"].lower() not in TOOLS]
    for part in bill["components"]:  # where it was installed from concerns nobody
        part["externalReferences"] = [
            reference for reference in part.get("externalReferences", ()) if not reference["url"].startswith("file:")
        ]
    bill["components"] += vendored(VENDORED.read_text(encoding="utf-8"))
    problems = [problem for part in bill["components"] if (problem := problem_with(part)) is not None]
    if problems:
        sys.exit("\n".join(problems))
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    print(f"{len(bill['components'])} components, none of them copyleft: {target}")


def vendored(table: str) -> Iterator[dict[str, Any]]:
    """Yield a component for each row: file, digest, what it is, whose it is, licence."""
    row = re.compile(r"\| `([^`]+)` \| `([0-9a-f]{64})` \| \[([^]]+)\]\(([^)]+)\) ([\d.]+),[^|]*\|[^|]*\| ([\w.-]+) \|")
    for _file, digest, name, home, version, licence in row.findall(table):
        yield {
            "type": "library",
            "bom-ref": f"{name}=={version}",
            "name": name,
            "version": version,
            "licenses": [{"license": {"id": licence}}],
            "hashes": [{"alg": "SHA-256", "content": digest}],
            "externalReferences": [{"type": "website", "url": home}],
        }


def problem_with(part: dict[str, Any]) -> str | None:
    """Return why the licence of a component does not fit, or None. Where there is a choice, one that fits is enough."""
    words = [
        each.get("expression") or each["license"].get("id") or each["license"].get("name") or ""
        for each in part.get("licenses", ())
    ]
    if not any(words):
        return f"{part['name']}: no licence is stated"
    wrong = [word for word in words if all(COPYLEFT.search(choice) for choice in re.split(r"\bOR\b", word))]
    return f"{part['name']}: {wrong[0][:60]} does not fit" if wrong else None


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
