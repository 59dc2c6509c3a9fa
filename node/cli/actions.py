"""Actions on a root that a person orders, and their confirmation."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.errors import UsageError

if TYPE_CHECKING:
    from node.settings.model import Settings

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def perform(settings: Settings, action: str, **arguments: Any) -> dict[str, Any]:
    """Perform an action as the user of this process; see `node.control.repository.perform_action`."""
    from node.control.repository import perform_action

    return perform_action(settings, action, **arguments, who=getpass.getuser())


def confirm(act: str, question: str, yes: bool) -> None:
    """Ask before what cannot be undone; `act` names it at the beginning of a sentence.

    Raises
    ------
    UsageError
        There is no terminal to ask on, and `yes` is not given.
    Abort
        The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{act} cannot be undone; without a terminal, confirm with --yes")
    typer.confirm(question, abort=True)
