"""What the container installs, and under which licences: the locks fit pyproject.toml, and nothing is copyleft."""

import hashlib
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydicom.uid import UID

from node.volume.read.transfer_syntaxes import decoders_by_transfer_syntax

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DEPENDENCIES: list[str] = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
OF_CONTAINER = ("s3", "cluster", "oidc", "second-factor", "webhooks")
LOCKS = {
    "requirements.lock": DEPENDENCIES + [text for extra in OF_CONTAINER for text in EXTRAS[extra]],
    "build.lock": PROJECT["build-system"]["requires"],
}
[PYTHON] = set(re.findall(r"FROM .*/python:([\d.]+)-", (ROOT / "deploy/Containerfile").read_text("utf-8")))
CONTAINER = {
    "python_version": PYTHON.rpartition(".")[0],
    "python_full_version": PYTHON,
    "sys_platform": "linux",
    "extra": "",
}


def locked(name: str) -> dict[str, list[tuple[Requirement, list[str]]]]:
    """Return the entries of a lock with their digests, by name of the package."""
    text = (ROOT / "deploy" / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, list[tuple[Requirement, list[str]]]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pin, *digests = line.split("--hash=")
            requirement = Requirement(pin)
            found.setdefault(canonicalize_name(requirement.name), []).append((requirement, digests))
    return found


def needed(requirements: list[str], seen: set[str] | None = None) -> Iterator[Requirement]:
    """Yield all that the container needs for these, as far as the packages are installed here."""
    seen = set() if seen is None else seen
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate(CONTAINER):
            continue
        yield requirement
        if requirement.name not in seen:
            seen.add(requirement.name)
            with suppress(PackageNotFoundError):  # this Python is newer than that of the container
                yield from needed(distribution(requirement.name).requires or [], seen)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_one_version_of_each_package_with_its_digests(name: str) -> None:
    for entries in locked(name).values():
        for requirement, digests in entries:
            assert re.fullmatch(r"==[\w.]+", str(requirement.specifier))
            assert digests
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", digest) for digest in digests)
        chosen = [entry for entry, _ in entries if entry.marker is None or entry.marker.evaluate(CONTAINER)]
        assert len(chosen) <= 1


def test_the_lock_of_the_container_fits_the_project() -> None:
    entries = locked("requirements.lock")
    for requirement in needed(LOCKS["requirements.lock"]):
        pins = [
            entry
            for entry, _ in entries.get(canonicalize_name(requirement.name), [])
            if entry.marker is None or entry.marker.evaluate(CONTAINER)
        ]
        assert len(pins) == 1, requirement
    for text in LOCKS["requirements.lock"]:
        requirement = Requirement(text)
        for entry, _ in entries[canonicalize_name(requirement.name)]:
            [pinned] = entry.specifier
            assert Version(pinned.version) in requirement.specifier


def test_the_lock_of_the_build_fits_the_project() -> None:
    [requirement] = map(Requirement, LOCKS["build.lock"])
    [(entry, _)] = locked("build.lock")[canonicalize_name(requirement.name)]
    [pinned] = entry.specifier
    assert Version(pinned.version) in requirement.specifier


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_host_and_no_folder(name: str) -> None:
    lines = (ROOT / "deploy" / name).read_text(encoding="utf-8").splitlines()
    entries = "\n".join(line for line in lines if not line.startswith("#"))
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links|(^|\s)/", entries)


def test_the_container_installs_what_is_locked_and_nothing_else() -> None:
    text = (ROOT / "deploy/Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", text)
    assert len(installs) == 3
    for arguments in installs:
        assert "--no-deps" in arguments
        assert "--require-hashes" in arguments or "dist/*.whl" in arguments


# Licences


@pytest.fixture(scope="module")
def bill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bill_of_materials", ROOT / ".ci/bill_of_materials.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_vendored_file_is_in_the_bill_with_its_digest(bill: ModuleType) -> None:
    parts: list[dict[str, Any]] = list(bill.vendored(bill.VENDORED.read_text(encoding="utf-8")))
    files = [path for path in bill.VENDORED.parent.iterdir() if path != bill.VENDORED]
    digests = {part["hashes"][0]["content"] for part in parts}
    assert digests == {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert [bill.problem_with(part) for part in parts] == [None] * len(files)


def test_no_dependency_of_the_node_is_copyleft(bill: ModuleType) -> None:
    for name in {requirement.name for requirement in needed(DEPENDENCIES)}:
        try:
            about = distribution(name).metadata
        except PackageNotFoundError:
            continue
        classified = [line.rpartition("::")[2] for line in about.get_all("Classifier") or [] if line.startswith("Lic")]
        stated = about.get("License-Expression") or (about.get("License") or "").partition("\n")[0]
        words = [stated] if stated else classified
        assert bill.problem_with({"name": name, "licenses": [{"expression": word} for word in words]}) is None


@pytest.mark.parametrize("name", ["pylibjpeg-openjpeg", "python-gdcm", "Pillow"])
def test_what_a_wheel_carries_is_named_with_its_version_and_not_copyleft(bill: ModuleType, name: str) -> None:
    inside = list(bill.carried(distribution(name)))
    versions = [inner["version"] for inner in inside if inner["name"] == "OpenJPEG"]
    assert versions
    assert all(re.fullmatch(r"2\.\d+\.\d+", version) for version in versions)
    assert list(bill.problems_inside({"name": name, "components": inside})) == []


def test_of_the_copies_of_openjpeg_only_that_of_pylibjpeg_decodes() -> None:
    for syntax, packages in decoders_by_transfer_syntax().items():
        if "2000" in UID(syntax).name:
            assert [package.partition(" ")[0] for package in packages] == ["pylibjpeg-openjpeg"]


@pytest.mark.parametrize(
    ("licences", "fits"),
    [
        ([{"license": {"id": "MIT"}}], True),
        ([{"expression": "Apache-2.0 OR GPL-3.0-only"}], True),
        ([{"expression": "MIT AND LGPL-2.1-only"}], False),
        ([{"license": {"name": "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)"}}], False),
        ([{"license": {"id": "AGPL-3.0-or-later"}}], False),
        ([], False),
        ([{"license": {"name": ""}}], False),
    ],
    ids=str,
)
def test_a_licence_fits_or_does_not(bill: ModuleType, licences: list[dict[str, Any]], fits: bool) -> None:
    assert (bill.problem_with({"name": "part", "licenses": licences}) is None) == fits
