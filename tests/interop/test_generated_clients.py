"""Clients that others generate from our OpenAPI document: openapi-python-client and openapi-typescript."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.index.rules.people.accounts import Role
from node.web.problem_types import FORBIDDEN, NOT_AUTHENTICATED, NOT_FOUND, UNKNOWN_PARAMETER
from tests.interop.conftest import NODE_MODULES, STUDY, needs, run
from tests.make import ct_series
from tests.web.conftest import Site, open_site

pytestmark = [pytest.mark.peer, pytest.mark.slow]

CLIENTS = Path(__file__).parent / "generated"

GENERATORS = Path(os.environ.get("VOXELNODE_CLIENT_VENV", Path(__file__).parent / ".venv"))
"""A virtual environment with requirements.txt; openapi-python-client needs an older Typer than we do."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("generated") / "root", authentication="always") as site:
        site.take(*ct_series(4, study_uid=STUDY, PatientName="Doe^Jane"))
        site.convert()
        site.account("writer", Role.WRITE, None)
        yield site


@pytest.fixture(scope="module")
def token(node: Site) -> str:
    return node.token("writer")


@pytest.fixture(scope="module")
def document(node: Site, token: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OpenAPI document."""
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    answer = node.client().get("/api/v1/openapi.json", headers={"Authorization": f"Bearer {token}"})
    path.write_bytes(answer.content)
    return path


def operations(document: Path) -> set[str]:
    paths = json.loads(document.read_text(encoding="utf-8"))["paths"]
    return {operation["operationId"] for path in paths.values() for operation in path.values()}


def last_json(reported: str) -> dict[str, Any]:
    answers: dict[str, Any] = json.loads(reported.splitlines()[-1])
    return answers


def check(reported: dict[str, Any]) -> None:
    """What both clients tell."""
    assert reported["patient"] == "Doe^Jane"
    assert hashlib.sha256(bytes.fromhex(reported["downloaded"])).hexdigest() == reported["volume"]
    assert reported["missing"] == [NOT_FOUND.uri, 404]
    assert reported["refused"] == FORBIDDEN.uri


@pytest.mark.long
def test_the_python_client_has_all_operations_and_works(node: Site, token: str, document: Path, tmp_path: Path) -> None:
    programs = GENERATORS / "bin"
    if not (programs / "openapi-python-client").exists():
        pytest.skip("openapi-python-client is not installed (tests/interop/requirements.txt in tests/interop/.venv)")
    path = f"{programs}:{os.environ['PATH']}"  # of its ruff
    reported = run(
        str(programs / "openapi-python-client"), "generate", "--path", str(document), "--fail-on-warning",
        "--output-path", str(tmp_path / "made"), PATH=path,
    )  # fmt: skip
    assert "WARNING" not in reported
    package = tmp_path / "made" / "voxelnode_client"
    assert {each.stem for each in package.glob("api/*/*.py")} - {"__init__"} == operations(document)
    script, python = str(CLIENTS / "client.py"), str(programs / "python")
    answers = last_json(run(python, script, node.url, token, STUDY, PYTHONPATH=str(package.parent)))
    check(answers)
    assert answers["titles"] == [NOT_FOUND.title] * 2
    assert answers["stranger"] == NOT_AUTHENTICATED.uri
    assert answers["reconverted"] == 1


def test_the_typescript_client_compiles_and_works(node: Site, token: str, document: Path, tmp_path: Path) -> None:
    javascript = needs("node", "nodejs")
    if not (NODE_MODULES / "openapi-typescript").is_dir():
        pytest.skip("openapi-typescript is not installed (npm ci --prefix tests/interop)")
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    types = tmp_path / "voxelnode.ts"  # no .d.ts: those of libraries are not checked
    run(javascript, str(NODE_MODULES / "openapi-typescript/bin/cli.js"), str(document), "-o", str(types))
    declared = types.read_text(encoding="utf-8")
    assert all(f'operations["{name}"]' in declared for name in operations(document))
    shutil.copy(CLIENTS / "client.ts", tmp_path)
    run(
        javascript, str(NODE_MODULES / "typescript/bin/tsc"), "--strict", "--noUncheckedIndexedAccess",
        "--skipLibCheck", "--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--module", "nodenext",
        "client.ts", folder=tmp_path,
    )  # fmt: skip
    answers = last_json(run(javascript, "client.js", node.url, token, STUDY, folder=tmp_path))
    check(answers)
    assert answers["misspelt"] == UNKNOWN_PARAMETER.status
