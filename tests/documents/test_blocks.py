"""Every block of commands of the documents is typed by a test, or has a mark that says why not."""

import importlib

from tests.documents.blocks import DOCUMENTS, PROGRAMS, blocks, typed

SCENARIOS = (
    "tests.documents.test_node",
    "tests.documents.test_service",
    "tests.documents.test_tutorial",
    "tests.documents.test_upgrade",
)

ELSEWHERE = {
    "docs/deploy.md: TLS": "tests/acceptance/test_cluster_deployment.py",
    "docs/python.md": "tests/integration/test_opened.py",
}
"""What another test runs."""

NOT_RUN = {
    "needs a package index": "README README cluster deidentify deploy development dicomweb dicomweb object-store",
    "needs this host": "access",
    "needs this database": "cluster cluster cluster",
    "needs two servers": "cluster",
    "needs Docker": "cluster deploy",
    "needs Kubernetes": "cluster",
    "needs datasette": "data",
    "needs Orthanc": "from-orthanc",
    "needs a bucket": "object-store object-store",
    "takes hours": "benchmarks development development development development reliability wrong-series",
    "runs the tests": "development",
}
"""The marks, and the documents that have them. The list may only become shorter."""

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]


def test_every_block_of_commands_is_typed_or_has_a_mark() -> None:
    tests = [test for module in SCENARIOS for test in vars(importlib.import_module(module)).values()]
    marks = [mark for test in tests for mark in getattr(test, "pytestmark", ()) if mark.name == "runs"]
    names = [*ELSEWHERE, *(name for mark in marks for name in mark.args)]
    reached = [block for name in names for block in typed(*name.split(": "))]
    commands = [block for block in BLOCKS if block.language == "shell" and not block.reason]
    assert [f"{block.document}:{block.line}" for block in commands if block not in reached] == []


def test_blocks_that_are_not_run_are_those_of_the_list() -> None:
    marks = [(block.reason, block.document.rpartition("/")[2].removesuffix(".md")) for block in BLOCKS if block.reason]
    assert sorted(marks) == sorted((reason, name) for reason, names in NOT_RUN.items() for name in names.split())


def test_no_command_hides_among_what_is_shown() -> None:
    lines = [line.split() for block in BLOCKS if block.language != "shell" for line in block.text.split("\n")]
    commands = [words for words in lines if words and words[0] in PROGRAMS and words[1:2] != ["ready:"]]
    assert commands == []
