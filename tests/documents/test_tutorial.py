"""The documents with prompts do what they show: their commands are typed in order, and what they print is compared."""

from dataclasses import replace

import pytest

from tests.documents.blocks import Command
from tests.documents.machine import Machine, comparable
from tests.rows import view_rows
from tests.waiting import until

pytestmark = [pytest.mark.timeout(400), pytest.mark.sqlite("they are about the file of the index")]


@pytest.mark.long
@pytest.mark.runs("docs/tutorial.md")
def test_the_tutorial_does_what_it_shows(machine: Machine) -> None:
    follow(machine, "docs/tutorial.md")


@pytest.mark.slow
@pytest.mark.runs("docs/model.md")
def test_a_first_model_does_what_it_shows(machine: Machine) -> None:
    follow(machine, "docs/model.md")


def follow(machine: Machine, document: str) -> None:
    """Type a document in an empty folder, and wait as long as it says: until every series and every job has ended."""
    machine.type("mkdir /tutorial && cd /tutorial")
    waiting = "SELECT 1 FROM v_series WHERE state IN ('receiving', 'converting')"

    def wait() -> None:
        until(lambda: not view_rows(machine / "/tutorial/node", waiting), 60, "conversions")

    def serve(command: Command) -> None:
        machine.stop()
        assert comparable(machine.start(command.text, 2)) == comparable(command.shown)

    def send(command: Command) -> None:
        machine.as_shown(replace(command, text=sent_safely(command.text)))
        wait()

    def ask(command: Command) -> None:
        machine.as_shown(command)
        until(lambda: view_rows(machine / "/tutorial/node", "SELECT 1 FROM v_series WHERE modality = 'SEG'"), 60, "it")
        wait()

    steps = {
        "voxelnode serve": serve, "python -m pynetdicom": send, "voxelnode import": ask, "voxelnode hooks replay": ask,
    }  # fmt: skip
    machine.follow(document, steps=steps)


def sent_safely(command: str) -> str:
    """The command of pynetdicom by which a slow machine loses no answer."""
    return f"PYTHONPATH=/root/voxelnode {command.replace('-m pynetdicom', '-m tests.awaited_answers')}"
