"""The command line: `main` runs one command and reports an error by one line and an exit status.

Exit status: 0 success, 1 failure, 2 usage error. Only the module of the requested command is loaded, and it imports
heavy libraries only when it runs; commands, completion and ``--help`` therefore start quickly.
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
    "import": "import_command.import_",
    "convert": "convert.convert",
    "status": "status.status",
    "series": "series.series",
    "select": "select.select",
    "reconvert": "reconvert.reconvert",
    "info": "info.info",
    "dump": "dump.dump",
    "echo": "echo.echo",
    "find": "find.find",
    "get": "get.get",
    "send": "send.send",
    "doctor": "doctor.doctor",
    "fsck": "fsck.fsck",
    "rejections": "rejections.rejections",
    "delete": "delete.delete",
    "retention": "retention.retention",
    "audit": "audit.audit",
    "conformance": "conformance.conformance",
}
"""Each command, and the module and function of this package that implement it."""

GROUPS = ("config", "db", "journal", "patient", "viewers", "account", "hooks", "quarantine", "conflicts", "worklist")
"""Commands with subcommands; each is the `app` of the module with the same name."""


def application(wanted: str | None = None) -> typer.Typer:
    """Return the whole command line, or only the part that the command `wanted` needs.

    Help texts are not Rich markup, in which ``[storage] root`` would lose its brackets.
    """
    app = typer.Typer(
        name="voxelnode",
        help="DICOM node: receives and archives series byte for byte, and writes them as NIfTI and MetaImage.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_options)
    known = wanted in COMMANDS or wanted in GROUPS
    for name, location in COMMANDS.items():
        if not known or name == wanted:
            module, function = location.split(".")
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
        status = _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
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
