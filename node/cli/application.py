"""The command line: `main` runs one command and reports an error by one line and an exit status.

Exit status: 0 success, 1 failure, 2 usage error. Only the module of the requested command is loaded, and it imports
heavy libraries only when it runs; commands, completion and ``--help`` therefore start quickly.
"""

import errno
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import typer

from node.cli.options import Group, PlainCommand, completed
from node.cli.output import stop_printing
from node.errors import UsageError, VoxelnodeError, in_plain_words, near
from node.hookspecs import Command, Panel
from node.registry import installed, resolve
from node.version import __version__

OF_PROGRAM = ("voxelnode demo", "voxelnode convert scans -o volumes", "voxelnode init && voxelnode serve")
"""Examples of the program as a whole."""


def _command(name: str, panel: Panel, place: str, *examples: str) -> Command:
    """Return a command of the core; `examples`: what follows its name on a command line."""
    return Command(name, panel, f"node.cli.{place}", tuple(f"voxelnode {name} {one}".rstrip() for one in examples))


COMMANDS = (
    _command("init", "Run", "run.config:init", "", "site"),
    _command("serve", "Run", "run.serve:serve", "", "--config site/voxelnode.toml"),
    _command("reload", "Run", "run.config:reload", ""),
    _command("doctor", "Run", "run.doctor:doctor", "", "--json"),
    _command("config", "Run", "run.config:app", "show", "check", "example > voxelnode.toml"),
    _command(
        "convert",
        "Convert",
        "convert.convert:convert",
        "scans -o volumes",
        "scans -o volumes --list",
        "scan.zip -o volumes --flat -f '%p_%s' --format nifti,nrrd",
        "scans -o volumes --name '{patient_id}_{series_number:03}'",
    ),
    _command("import", "Convert", "convert.import_:import_", "scans", "scan.zip --dry-run"),
    _command(
        "reconvert",
        "Convert",
        "convert.import_:reconvert",
        "--failed",
        '--where \'modality == "MR" and verdict == "incomplete"\' --dry-run',
    ),
    _command(
        "peers",
        "Exchange",
        "exchange.tables:peers",
        "echo PACS@pacs.example:104",
        "send 1.2.840.1 --to PACS",
        "set CT1 ae_title=CT1 networks=10.1.2.0/24 may=echo,store,commit",
    ),
    _command("hooks", "Exchange", "exchange.tables:hooks", "list", "test mail", "deliveries --state given-up"),
    _command("routes", "Exchange", "exchange.tables:routes", "list", "waiting", "pause research/PACS"),
    _command("status", "Look", "look.status:status", "", "--json"),
    _command("series", "Look", "look.series:series", "", "--state waiting", "--modality CT --since 2026-01-31"),
    _command(
        "select", "Look", "look.series:select", "'modality == \"CT\" and slices >= 50'", "'modality == \"CT\"' --why"
    ),
    _command("info", "Look", "look.info:info", "doe", "1.2.840.1"),
    _command("dump", "Look", "look.dump:dump", "scans/1.dcm", "1.2.840.1.1 --json"),
    _command("rejections", "Look", "look.audit:rejections", ""),
    _command("conflicts", "Look", "maintain.custody:conflicts_app", ""),
    _command("audit", "Look", "look.audit:audit", "", "--verify"),
    _command("help", "Look", "look.help:help_", "", "select"),
    _command("fsck", "Maintain", "maintain.db:fsck", "", "--hash"),
    _command("db", "Maintain", "maintain.db:db_app", "path", "export shared --group users"),
    _command("journal", "Maintain", "maintain.db:journal_app", "status"),
    _command("quarantine", "Maintain", "maintain.custody:quarantine_app", "list"),
    _command(
        "lost",
        "Maintain",
        "maintain.custody:lost_app",
        "list",
        'write-off 1.2.840.1 --reason "the scanner no longer has it"',
    ),
    _command("delete", "Maintain", "maintain.deletion:delete", "1.2.840.1 --dry-run"),
    _command("retention", "Maintain", "maintain.deletion:retention_app", "", "confirm"),
    _command("trash", "Maintain", "maintain.deletion:trash_app", "", "restore 12"),
)
"""The commands of the core in the order of the help; one of an extension is a `Command` as well."""


def epilog(examples: tuple[str, ...]) -> str:
    """Return examples as the end of a help; ``\\b`` keeps the help from joining the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)


_SAME = {
    ("-z", "n"): ["--no-compress"],
    ("-z", "3"): ["--no-compress", "--split-times"],
    ("-e", "y"): ["--format", "nrrd"],
    ("-n", "-1"): ["--list"],
}
"""Options of dcm2niix with their values, and those that do the same here."""

_ALIKE = {"-o", "-f", "-z", "-d", "-v", *(("-b", "y"), ("-ba", "y"), ("-w", "1"), ("-w", "2"))}
"""Options of dcm2niix that need no other one here, whatever their value is or with this one."""


_OF_OTHERS = {
    **dict.fromkeys(("ls", "studies", "query", "search"), "`voxelnode series`, `voxelnode info`"),
    **dict.fromkeys(("log", "logs"), "`journalctl -u voxelnode`; who did what: `voxelnode audit`"),
    **dict.fromkeys(("stop", "down", "restart"), "`systemctl stop voxelnode`, or Ctrl-C where `voxelnode serve` runs"),
    **dict.fromkeys(("start", "run", "up"), "`voxelnode serve`"), "rm": "`voxelnode delete`",
    **dict.fromkeys(("-v", "-V"), "`voxelnode --version`; more of the log: `[log] level`"), "cat": "`voxelnode dump`",
}  # fmt: skip
"""Words of other programs, and what leads to the same here."""


class _Panels(Group):
    """Lists the commands under their titles."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        widest = max(map(len, self.commands))
        every = commands()
        for title in get_args(Panel):
            names = [command.name for command in every if command.panel == title]
            known = [(name, self.commands[name]) for name in names if name in self.commands]
            if known:
                with formatter.section(title):
                    room = formatter.width - widest - 6
                    formatter.write_dl([(name.ljust(widest), each.get_short_help_str(room)) for name, each in known])


def commands() -> list[Command]:
    """Return all commands: those of the core, then those of extensions, or where they want to be.

    Raises UsageError: two commands have one name.
    """
    found = list(COMMANDS)
    for extension in installed():
        for command in extension.commands:
            names = [known.name for known in found]
            if command.name in names:
                raise UsageError(f"the extension {extension.name}: `voxelnode {command.name}` is a command already")
            found.insert(names.index(command.before) if command.before in names else len(found), command)
    return found


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
        epilog=epilog(OF_PROGRAM),
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_options)
    needed = {command.name: command for command in _needed(wanted)}
    for command in needed.values():
        group, _, name = command.name.rpartition(" ")
        into = resolve(needed[group].place) if group else app
        implementation, examples = resolve(command.place), epilog(command.examples)
        if isinstance(implementation, typer.Typer):
            into.add_typer(implementation, name=name, epilog=examples)
        elif group:
            into.command(name, epilog=examples)(implementation)
        else:
            app.command(name, epilog=examples, cls=PlainCommand)(completed(implementation))
    return app


def _needed(wanted: str | None) -> list[Command]:
    """Return the command that is wanted with its commands, else all.

    For one of the core that has none, no extension is looked for.
    """
    of_core = [command for command in COMMANDS if command.name == wanted]
    if of_core and not isinstance(resolve(of_core[0].place), typer.Typer):
        return of_core
    every = commands()
    return [command for command in every if command.name.partition(" ")[0] == wanted] or every


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
        status = _wrong_use(error, given)
    except UsageError as error:
        status = _failed(str(error), 2)
    except VoxelnodeError as error:
        status = _failed(_with_limit(str(error), error), 1)
    except (KeyboardInterrupt, typer.Abort):
        status = 130  # as shells report SIGINT
    except BrokenPipeError:  # the reader of our output has gone
        stop_printing()
        status = 0
    except OSError as error:
        reason = error.strerror or str(error)
        status = _failed(_with_limit(f"{error.filename}: {reason}" if error.filename else reason, error), 1)
    except Exception as error:
        if os.environ.get("VOXELNODE_TRACEBACK"):
            raise
        if limit := _limit_behind(error):
            sys.exit(_failed(limit, 1))
        status = _failed(
            f"unexpected {type(error).__name__}: {error} (please report it; VOXELNODE_TRACEBACK=1 shows a traceback)", 1
        )
    sys.exit(status or 0)


def _with_limit(message: str, error: Exception) -> str:
    limit = _limit_behind(error)
    return message if limit is None else f"{message}\n{limit}"


def _limit_behind(error: Exception) -> str | None:
    """Return which limit of this process explains an error, with the remedy; None: none does."""
    import resource  # here and below, because few runs need it

    from node.errors import is_out_of_memory

    file_bytes, memory_bytes = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS))
    is_too_long = isinstance(error, OSError) and error.errno == errno.EFBIG
    if is_too_long or (file_bytes != resource.RLIM_INFINITY and "disk I/O error" in str(error)):
        limited = f"this process may write files of {file_bytes} bytes" if file_bytes >= 0 else "the disk limits files"
        return f"{limited}: remove the limit (`ulimit -f`, `prlimit --fsize`, LimitFSIZE= of systemd)"
    if memory_bytes != resource.RLIM_INFINITY and (is_out_of_memory(error) or isinstance(error, SystemError)):
        return (
            f"this process may use {memory_bytes} bytes of address space, which is too little: remove the limit "
            "(`ulimit -v`, `prlimit --as`, LimitAS= of systemd)"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename:
        from node.archive.space import room_of

        return room_of(next(folder for folder in Path(error.filename).absolute().parents if folder.is_dir()))
    if is_out_of_memory(error):
        return (
            "the machine gives this process no more memory or threads: end other programs, or allow it more "
            "(`ulimit -u`, TasksMax= and MemoryMax= of systemd)"
        )
    return None


def _failed(message: str, status: int) -> int:
    for line in message.splitlines():
        print(f"voxelnode: {line}", file=sys.stderr)
    return status


def _wrong_use(error: typer.TyperException, given: Sequence[str]) -> int:
    """Print the usage error and how to get help, in one line. `given`: the arguments of the program."""
    context = getattr(error, "ctx", None)
    known = f" {given[0]}" if given and given[0] in _names() else ""
    path = context.command_path if context else f"voxelnode{known}"
    more = f"{path} --help"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    message = message.replace(": Value error, ", ": ")  # pydantic's words, of which Typer takes the rest
    message = re.sub(r"Input should be a valid (?:integer|number), unable to parse.*", _no_number, message)
    message = re.sub(r"Got unexpected extra argument\(?s?\)? \((.*)\)", r"Unexpected argument: \1", message)
    message = re.sub(r"\bdir ('.*') is a file", r"\1 is a file, and must be a folder", message)
    message = in_plain_words(_with_near_names(message, context))
    option = getattr(error, "param", None)
    if message.startswith("Missing option") and option is not None and option.metavar:
        message = f"Missing option '{option.opts[0]} {option.metavar}'."
    short = re.match("No such option: (-[a-zA-Z1-9])", message)
    is_program = path == "voxelnode" and not {*given[:1]} & {"-v", "-V"}  # options of dcm2niix without the command
    if short and (path == "voxelnode convert" or is_program):
        option = next((word for word in given if word.startswith(short[1])), short[1])
        message = f"{option} is an option of dcm2niix. {_same_as_dcm2niix(given[not is_program :])}"
        more = "voxelnode help dcm2niix"
    if unknown := re.fullmatch(r"No such (?:command '([\w-]+)'|option: (-[vV]))", message):
        from node.cli.look.help import documents_with

        word = unknown[1] or unknown[2]
        more = f"voxelnode help {word}" if path == "voxelnode" and documents_with(word) else more
        of_path = getattr(getattr(context, "command", None), "commands", {})
        below = [f"`voxelnode {name} {word}`" for name, one in of_path.items() if word in getattr(one, "commands", ())]
        of_others = _OF_OTHERS.get(word) if path == "voxelnode" or unknown[2] else None
        place = f"`{path} list`" if word == "ls" and "list" in of_path else ", ".join(below) or of_others
        message += f": that is {place}" if place else ""
    if context and message == context.get_help():  # no command was given
        print(message)
    else:
        message += _with_place(error, given) if path == "voxelnode" else ""
        end = "" if message.endswith((".", "?")) else "."
        print(f"{path}: {message}{end} See `{more}`.", file=sys.stderr)
    return 2


def _same_as_dcm2niix(given: Iterable[str]) -> str:
    """Return the command that does what these arguments do for dcm2niix, whose options are short and have a value.

    An option with the value n but those of sidecars, and `_ALIKE`, change nothing; others are named before the command.
    """
    rest, values, others = list(given), {"-z": "n", "-o": "OUT"}, []
    while rest:
        word = rest.pop(0)
        if option := re.fullmatch(r"(-ba|-[a-z])(.*)", word):
            has_value = option[2] or not rest or re.match("-[a-z]", rest[0])
            values[option[1]] = option[2] if has_value else rest.pop(0)
        elif not re.fullmatch("-[1-9]", word):  # the strength of compression
            others.append(word)
    named = [word for pair in values.items() if pair[0] in ("-o", "-f") for word in pair]
    same = [word for pair in values.items() for word in _SAME.get(pair, [])]
    line = ["voxelnode", "convert", *named, "--flat", *same, *(word for word in others if word != "--flat")]
    alike = {*_ALIKE, *_SAME, *((name, "n") for name in values if not name.startswith("-b"))}
    unlike = [name for name, value in values.items() if alike.isdisjoint({name, (name, value)})]
    return f"The same{', but for' * bool(unlike)} {', '.join(unlike)}".rstrip() + f": {shlex.join(line)}"


def _with_near_names(message: str, context: typer.Context | None) -> str:
    """Return the message about an unknown option or command with the names that are near, which Typer guesses."""
    unknown = re.match(r"No such (?:option: (?P<option>--[^\s:]+)|command '(?P<command>.*?)')", message)
    if unknown is None or context is None:
        return message
    if unknown["option"]:
        options = (name for option in context.command.params for name in (*option.opts, *option.secondary_opts))
        close = near(unknown["option"], (name for name in options if name.startswith("--")))
    else:
        close = [f"'{name}'" for name in near(unknown["command"], getattr(context.command, "commands", ()))]
    return unknown[0] + (f". Did you mean {', '.join(close)}?" if close else "")


def _no_number(found: re.Match[str]) -> str:
    return "must be a whole number." if "integer" in found[0] else "must be a number."


OF_COMMANDS = ("--config", "-c", "--root", "--json", "--tsv")
"""Options of many commands, which some write before the command."""


def _names() -> set[str]:
    return {command.name for command in commands()}


def _with_place(error: typer.TyperException, given: Sequence[str]) -> str:
    """Return where an option belongs that was given before the command."""
    option = getattr(error, "option_name", "")
    if option in OF_COMMANDS and (words := [word for word in given if word in _names()]):
        return f": options come after the command, as in `voxelnode {words[0]} ... {option}`"
    return ""
