"""Write the bill of materials of an installed voxelnode (CycloneDX, JSON), and refuse licences that do not fit.

    .venv/bin/python .ci/bill_of_materials.py INTERPRETER FILE

INTERPRETER belongs to an environment that has voxelnode with extras, and nothing else. What the node carries itself,
such as the scripts of its pages, is read from the table beside it. What wheels carry stands within their components:
libraries by the names of their files, what a wheel says of itself (PEP 770), and `CARRIED`. No network is needed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VENDORED = ROOT / "node/extensions/pages/static/vendor/LICENSES.md"

TOOLS = {"pip", "setuptools", "wheel"}
"""What every environment has beside."""

COPYLEFT = re.compile(r"GPL|GNU|MPL|Mozilla|EUPL|CDDL|EPL|Eclipse|OSL|SSPL|CC-BY-SA|CECILL", re.IGNORECASE)


CARRIED = (
    # Wheel, library and its licence, pattern of the file that has it, and how its version stands in the file
    ("pylibjpeg-openjpeg", "OpenJPEG", "BSD-2-Clause", "_openjpeg.*.so", rb"\0(2\.\d\.\d)\0"),
    ("python-gdcm", "OpenJPEG", "BSD-2-Clause", "_gdcm/libgdcmopenjp2.so.*", rb"\0(2\.\d\.\d)\0"),
    ("simpleitk", "OpenJPEG", "BSD-2-Clause", "SimpleITK/_SimpleITK.*.so", rb"\0(2\.\d\.\d)\0"),
    ("simpleitk", "HDF5", "BSD-3-Clause", "SimpleITK/_SimpleITK.*.so", rb"HDF5 library version: ([\d.]+)"),
    ("pyjpegls", "CharLS", "BSD-3-Clause", "_CharLS.*.so", rb"charls ([\d.]+)"),
)
"""What a wheel carries and does not tell."""

_LIBRARY = re.compile(r"lib([\w+-]+?)(?:-[0-9a-f]{8}){0,2}\.so\.([\w.]+)")


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
    found = {name_of(wheel): wheel for wheel in distributions(path=packages_of(interpreter))}
    for part in bill["components"]:
        if inside := list(carried(found[part["name"].lower()])):
            part["components"] = inside
    bill["components"] += vendored(VENDORED.read_text(encoding="utf-8"))
    problems = [problem for part in bill["components"] if (problem := problem_with(part)) is not None]
    problems += [problem for part in bill["components"] for problem in problems_inside(part)]
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


def packages_of(interpreter: str) -> list[str]:
    """Return the folders of an environment that hold its packages."""
    program = "import sysconfig; print(*{sysconfig.get_path(name) for name in ('purelib', 'platlib')}, sep='\\n')"
    told = subprocess.run([interpreter, "-c", program], check=True, capture_output=True, text=True)
    return told.stdout.splitlines()


def name_of(wheel: Distribution) -> str:
    """Return the name of a package, in small letters."""
    return wheel.metadata["Name"].lower()


def carried(wheel: Distribution) -> Iterator[dict[str, Any]]:
    """Yield a component for each library within a wheel."""
    name = name_of(wheel)
    files = [file for file in wheel.files or () if file.name.endswith(".so") or ".so." in file.name]
    for owner, library, licence, pattern, version in CARRIED:
        if owner == name:
            texts = (Path(str(file.locate())).read_bytes() for file in files if file.match(pattern))
            read = next((match[1].decode() for text in texts if (match := re.search(version, text))), "")
            yield _library(name, library, read, licence)
    for library, version in sorted({match.groups() for file in files if (match := _LIBRARY.fullmatch(file.name))}):
        yield _library(name, f"lib{library}", version)
    for file in wheel.files or ():
        if "sboms" in file.parts:
            parts = json.loads(file.locate().read_text(encoding="utf-8")).get("components", ())
            yield from (part for part in parts if part["name"].lower().replace("_", "-") != name)


def _library(owner: str, name: str, version: str, licence: str = "") -> dict[str, Any]:
    part = {"type": "library", "bom-ref": f"{owner}/{name}=={version}", "name": name, "version": version}
    return part | ({"licenses": [{"expression": licence}]} if licence else {})


def problems_inside(part: dict[str, Any]) -> Iterator[str]:
    """Yield what does not fit of what a wheel carries. What it can do without, it need not have: that is not judged."""
    for inner in part.get("components", ()):
        if inner.get("licenses") and inner.get("scope", "required") == "required":
            problem = problem_with(inner)
            if problem is not None:
                yield f"{part['name']}: {problem}"


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
