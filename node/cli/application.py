"""The command line: `main` runs one command and turns what went wrong into one line and an exit status.

Exit status: 0 done, 1 it failed, 2 wrong use. Commands import what is heavy when they run, so that completion and
``--help`` stay fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from node import __version__
from node.cli import (
    audit,
    config,
    conflicts,
    convert,
    db,
    delete,
    demo,
    doctor,
    dump,
    echo,
    fsck,
    importing,
    info,
    init,
    patient,
    reconvert,
    rejections,
    retention,
    series,
    serve,
    status,
)
from node.errors import UsageError, VoxelnodeError

app = typer.Typer(
    name="voxelnode",
    help="A DICOM node that turns what arrives into volumes: C-STORE in, NIfTI and MHD out, nothing lost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo.demo,
    init.init,
    serve.serve,
    importing.import_,
    convert.convert,
    status.status,
    series.series,
    reconvert.reconvert,
    info.info,
    dump.dump,
    echo.echo,
    doctor.doctor,
    fsck.fsck,
    conflicts.conflicts,
    rejections.rejections,
    delete.delete,
    retention.retention,
    audit.audit,
):
    app.command(command.__name__.rstrip("_"))(command)
app.add_typer(config.app, name="config")
app.add_typer(db.app, name="db")
app.add_typer(patient.app, name="patient")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"voxelnode {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Options of the command as a whole."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status; never a traceback, unless ``VOXELNODE_TRACEBACK`` is set."""
    try:
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
