"""The command line: `main` runs one command and turns what went wrong into one line and an exit status.

Exit status: 0 done, 1 it failed, 2 wrong use. Only the module of the command that is asked for is loaded, and imports
what is heavy when it runs, so that commands start quickly, and completion and ``--help`` stay fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import typer

from node import __version__
from node.cli.output import stop_printing
from node.errors import UsageError, VoxelnodeError

COMMANDS = {
    "demo": "demo.demo",
    "init": "init.init",
    "serve": "serve.serve",
    "import": "importing.import_",
    "convert": "convert.convert",
    "status": "status.status",
    "series": "series.series",
    "reconvert": "reconvert.reconvert",
    "info": "info.info",
    "dump": "dump.dump",
    "echo": "echo.echo",
    "find": "find.find",
    "get": "get.get",
    "send": "send.send",
    "doctor": "doctor.doctor",
    "fsck": "fsck.fsck",
    "conflicts": "conflicts.conflicts",
    "rejections": "rejections.rejections",
    "delete": "delete.delete",
    "retention": "retention.retention",
    "audit": "audit.audit",
    "conformance": "conformance.conformance",
}
"""Each command, and the function of this package that it is."""

GROUPS = ("config", "db", "patient", "viewers", "account", "hooks")
"""Commands that have commands of their own: each is the `app` of the module of its name."""


def application(wanted: str | None = None) -> typer.Typer:
    """The whole command line, or only as much of it as the command `wanted` needs."""
    app = typer.Typer(
        name="voxelnode",
        help="A DICOM node that turns what arrives into volumes: C-STORE in, NIfTI and MHD out, nothing lost.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    known = wanted in COMMANDS or wanted in GROUPS
    for name, place in COMMANDS.items():
        if not known or name == wanted:
            module, function = place.split(".")
            app.command(name)(getattr(import_module(f"node.cli.{module}"), function))
    for name in GROUPS:
        if not known or name == wanted:
            app.add_typer(import_module(f"node.cli.{name}").app, name=name)
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
    """Options of the command as a whole."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status; never a traceback, unless ``VOXELNODE_TRACEBACK`` is set."""
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
        status = 130  # as a shell tells SIGINT
    except BrokenPipeError:  # the reader of our output has seen enough
        stop_printing()
        status = 0
    except OSError as error:
        status = _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except Exception as error:
        if os.environ.get("VOXELNODE_TRACEBACK"):
            raise
        status = _failed(
            f"unexpected {type(error).__name__}: {error} (VOXELNODE_TRACEBACK=1 shows where; please report it)", 1
        )
    sys.exit(status or 0)


def _failed(message: str, status: int) -> int:
    for line in message.splitlines():
        print(f"voxelnode: {line}", file=sys.stderr)
    return status


def _wrong_use(error: typer.TyperException) -> int:
    """One line: what is wrong with the command line, and where its help is."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "voxelnode"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if message:  # empty: help was shown for want of arguments
        print(f"{path}: {message} See `{path} --help`.", file=sys.stderr)
    return 2
