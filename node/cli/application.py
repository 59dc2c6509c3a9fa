"""The command line: `main` runs one command and reports an error by one line and an exit status.

Exit status: 0 success, 1 failure, 2 usage error. Only the module of the requested command is loaded, and it imports
heavy libraries only when it runs; commands, completion and ``--help`` therefore start quickly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Any

import typer

from node import __version__
from node.cli.examples import epilog
from node.cli.output import stop_printing
from node.errors import UsageError, VoxelnodeError

PANELS = {
    "Run": ("demo", "init", "serve", "doctor", "config"),
    "Convert": ("convert", "deidentify", "import", "reconvert", "bids"),
    "Exchange": ("echo", "find", "get", "send", "worklist", "workitems", "hooks", "jobs", "routes", "conformance"),
    "Look": ("status", "series", "select", "info", "dump", "rejections", "conflicts", "audit"),
    "Maintain": (
        "fsck",
        "db",
        "archive",
        "journal",
        "quarantine",
        "delete",
        "retention",
        "patient",
        "pseudonyms",
        "account",
        "cluster",
        "viewers",
    ),
}
"""The commands in the order and under the titles of the help."""

PANEL_OF = {command: panel for panel, commands in PANELS.items() for command in commands}
"""The panel of each command; its module lies in the folder of this name."""

MODULES = {"import": "import_command"}
"""The module of a command, if it is not the one with its name."""


class _Panels(typer.core.TyperGroup):
    """Lists the commands under the titles of `PANELS`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        widest = max(map(len, self.commands))
        for title, names in PANELS.items():
            known = [(name, self.commands[name]) for name in names if name in self.commands]
            if known:
                with formatter.section(title):
                    room = formatter.width - widest - 6
                    formatter.write_dl([(name.ljust(widest), each.get_short_help_str(room)) for name, each in known])


def module_of(command: str) -> str:
    """Return the name of the module that implements a command: by `app` if it has subcommands, else by a function."""
    return f"node.cli.{PANEL_OF[command].lower()}.{MODULES.get(command, command)}"


def application(wanted: str | None = None) -> typer.Typer:
    """Return the whole command line, or only the part that the command `wanted` needs.

    Help texts and examples are not Rich markup, in which ``[storage] root`` would lose its brackets.
    """
    app = typer.Typer(
        name="voxelnode",
        help="DICOM node: receives and archives series byte for byte, and writes them as NIfTI and MetaImage.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        cls=_Panels,
        epilog=epilog(""),
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_options)
    names = [name for panel in PANELS.values() for name in panel]
    for name in [wanted] if wanted in names else names:
        module = import_module(module_of(name))
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, epilog=epilog(name))
        else:
            app.command(name, epilog=epilog(name))(getattr(module, f"{name}_" if iskeyword(name) else name))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"voxelnode {__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Accept the options before the command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status; print no traceback unless ``VOXELNODE_TRACEBACK`` is set."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        app = application(given[0] if given else None)
        status = app(args=arguments, prog_name="voxelnode", standalone_mode=False)
    except typer.TyperException as error:
        status = _wrong_use(error)
    except UsageError as error:
        status = _failed(str(error), 2)
    except VoxelnodeError as error:
        status = _failed(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        status = 130  # as shells report SIGINT
    except BrokenPipeError:  # the reader of our output has gone
        stop_printing()
        status = 0
    except OSError as error:
        reason = error.strerror or str(error)
        status = _failed(f"{error.filename}: {reason}" if error.filename else reason, 1)
    except Exception as error:
        if os.environ.get("VOXELNODE_TRACEBACK"):
            raise
        status = _failed(
            f"unexpected {type(error).__name__}: {error} (please report it; VOXELNODE_TRACEBACK=1 shows a traceback)", 1
        )
    sys.exit(status or 0)


def _failed(message: str, status: int) -> int:
    for line in message.splitlines():
        print(f"voxelnode: {line}", file=sys.stderr)
    return status


def _wrong_use(error: typer.TyperException) -> int:
    """Print the usage error and how to get help, in one line."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "voxelnode"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if context and message == context.get_help():  # no command was given
        print(message)
    else:
        print(f"{path}: {message} See `{path} --help`.", file=sys.stderr)
    return 2
