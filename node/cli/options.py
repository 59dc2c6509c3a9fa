"""What commands declare instead of writing it out: the root that they are about, shared options, and an answer.

A parameter of the type `Configured`, `Root` or `ChangedRoot` stands for ``--config``, and for ``--root``. A command
that returns an `Answer` has ``--json`` as its last option, and one that returns a `Listing` has ``--tsv`` before it.
`completed` gives Typer the command with these options.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property, partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

import typer
import typer.core
from typer._coercion import RuntimeParam, build_runtime_param
from typer._param_types import coerce_cli_path

from node.cli.output import Answer, Listing
from node.errors import UsageError, VoxelnodeError

if TYPE_CHECKING:
    from node.archive.base import LocalFile
    from node.index.look.views import ReadIndex
    from node.index.looking import Named
    from node.index.rows.records import Level
    from node.settings.model import Settings

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration file (TOML). [default: $VOXELNODE_CONFIG, else ./voxelnode.toml if it exists]",
    ),
]
RootFolder = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="Folder of archive, index and volumes; overrides [storage] root."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tsv = Annotated[bool, typer.Option("--tsv", help="Print the rows with all fields, separated by tabs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Where = Annotated[
    str, typer.Option("--where", metavar="EXPRESSION", help="Series that `voxelnode select EXPRESSION` lists.")
]
Limit = Annotated[
    int, typer.Option("--limit", "--last", metavar="N", min=1, help="Maximum number of rows, the newest.")
]


def names_in(section: Literal["peers", "hooks", "routes"]) -> Callable[[typer.Context], list[str]]:
    """Return what completes the names of a section of the configuration, if there is one."""

    def names(ctx: typer.Context) -> list[str]:
        with suppress(VoxelnodeError, OSError):
            return list(getattr(Configured(ctx.params.get("config")).settings, section))
        return []

    return names


PEER: dict[str, Any] = {"metavar": "PEER", "autocompletion": names_in("peers")}
HOOK: dict[str, Any] = {"metavar": "NAME", "autocompletion": names_in("hooks")}
ROUTE: dict[str, Any] = {"metavar": "ROUTE[/DESTINATION]", "autocompletion": names_in("routes")}
"""How a peer, a hook and a route are given."""

CallingAet = Annotated[
    str | None, typer.Option("--calling-aet", metavar="AET", help="Calling AE title. [default: [dicom] ae_title]")
]


MAX_NUMBER = 2**53 - 1
"""What JSON carries without loss (RFC 8259, section 6); SQLite and PostgreSQL hold more."""

StudyUids = Annotated[list[str], typer.Argument(metavar="STUDY", help="Study Instance UIDs.")]
SeriesUids = Annotated[
    list[str], typer.Option("--series", metavar="UID", help="These series of the study, rather than the study itself.")
]

Given = dict[str, tuple[str, Any]]
"""Options that override keys of the configuration: the key and the value by the option; None is no value."""


class Configured:
    """The configuration that ``--config`` names."""

    options: ClassVar[dict[str, Any]] = {"config": ConfigFile}

    def __init__(self, config: Path | None) -> None:
        self.file = config
        self._given: Given = {}

    def read(self, given: Given | None = None) -> Settings:
        """Read it with further options."""
        from node.settings import load

        given = {
            name: (key, value) for name, (key, value) in (self._given | (given or {})).items() if value is not None
        }
        return load.load(self.file, dict(given.values()), {key: name for name, (key, _) in given.items()})

    @cached_property
    def settings(self) -> Settings:
        """The settings, read when they are first asked for."""
        return self.read()


class Root(Configured):
    """The root of the configuration, or that of ``--root``, for a command that reads it.

    `given`: the options that name them, for a command line that is proposed.
    """

    options: ClassVar[dict[str, Any]] = {"config": ConfigFile, "root": RootFolder}

    def __init__(self, config: Path | None, root: Path | None) -> None:
        super().__init__(config)
        self._given = {"--root": ("storage.root", root)}
        self.given = [f"{name}={path}" for name, path in (("--config", config), ("--root", root)) if path is not None]

    @property
    def maker(self) -> str:
        """The command that makes a root there, and serves it."""
        return " ".join(["voxelnode serve --create", *map(quote, self.given)])

    @property
    def folder(self) -> Path:
        """The absolute path."""
        return self.settings.storage.root.absolute()

    def existing(self) -> Path:
        """Return the absolute path; raises UsageError if there is no such folder."""
        if not self.folder.is_dir():
            raise UsageError(f"no folder {self.folder}: is the root right?")
        return self.folder

    def reading(self) -> AbstractContextManager[ReadIndex]:
        """Open the index for reading; see `node.index.reading`."""
        return self.reading_of(None)

    @contextmanager
    def reading_of(self, project: str | None) -> Iterator[ReadIndex]:
        """Open the index for reading the series of a project, as its members see them; None: the whole index.

        Raises UsageError if there is no such project.
        """
        from node.dicom.lean_import import load_for_rows

        load_for_rows()
        from node.index.reading import reading
        from node.index.rows.scope import Scope
        from node.index.rules.people.accounts import project_id

        scope = None if project is None else Scope(projects=(project,))
        with reading(self.settings.storage.root, self.settings.index.url, scope) as index:
            if project is not None:
                project_id(index.connection, project)
            yield index

    def looking(self) -> AbstractContextManager[ReadIndex]:
        """Open the documented views of the index; see `node.index.looking`."""
        from node.index.looking import looking
        from node.index.rows.backend import place_of

        return looking(place_of(self.settings.storage.root, self.settings.index.url))

    def named(self, text: str, *levels: Level, study: str | None = None) -> Named:
        """Return what a person names; see `node.index.looking.the_named`."""
        from node.index.looking import the_named

        with self.looking() as index:
            return the_named(index, text, *levels, study=study)

    def uid_of(self, text: str, *levels: Level) -> str:
        """Return the UID of what a person names, or the text itself: it may be of something that is gone."""
        from node.index.looking import named, the_named

        with self.looking() as index:
            return the_named(index, text, *levels).uid if named(index, text) else text

    def files(self) -> AbstractContextManager[LocalFile]:
        """Return what gives the files of the archive."""
        return archive_files(self.settings)


class ChangedRoot(Root):
    """The root of a command that changes it. Only warnings are logged: the command prints what it did."""

    @cached_property
    def settings(self) -> Settings:
        """The settings."""
        from node.runtime import logs

        settings = self.read()
        logs.configure_command(settings.log.format)
        return settings

    def perform(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Perform an action, see `node.control.repository.perform_action`."""
        from node.control.repository import perform_action

        return perform_action(self.settings, action, **arguments)

    def order(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Perform an action in the name of the user of this process, which the audit log has."""
        return self.perform(action, **arguments, who=getpass.getuser())


def completed(command: Callable[..., Answer | None], *, is_above_others: bool = False) -> Callable[..., None]:
    """Return a command for Typer: with the options of what it declares, and printing what it answers.

    `is_above_others`: it runs only if no command below it is given.
    """
    declared = signature(command, eval_str=True)
    context = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters: list[Parameter] = [context] if is_above_others else []
    parts: dict[str, type[Configured]] = {}
    for parameter in declared.parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and issubclass(kind, Configured):
            parts[parameter.name] = kind
            given = [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=option)
                     for name, option in kind.options.items()]  # fmt: skip
            parameters += given
        else:
            _bound_numbers(kind)
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
    answers = {declared.return_annotation, *get_args(declared.return_annotation)}
    formats = {"tsv": Tsv} if Listing in answers else {}
    formats |= {"json": Json} if answers & {Answer, Listing} and "json" not in declared.parameters else {}
    parameters += [Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=option)
                   for name, option in formats.items()]  # fmt: skip

    def run(**given: Any) -> None:
        if is_above_others and given.pop("context").invoked_subcommand is not None:
            return
        as_json = given.get("json", False)
        chosen = {name for name in formats if given.pop(name)}
        for name, kind in parts.items():
            given[name] = kind(**{option: given.pop(option) for option in kind.options})
        answer = command(**given)
        if isinstance(answer, Listing) and answer.left_out and chosen:
            print(f"voxelnode: {answer.left_out}; --limit N shows more", file=sys.stderr)
        if isinstance(answer, Listing) and "tsv" in chosen:
            answer.show_tsv()
        elif answer is not None:
            answer.show(as_json)

    run.__name__, run.__doc__, run.__annotations__ = command.__name__, command.__doc__, {}
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return run


def _bound_numbers(kind: Any) -> None:
    """Refuse whole numbers of a declared parameter that no row of the index can have."""
    of, *declared = get_args(kind) or (None,)
    if of is int or int in get_args(of):
        for info in declared:
            info.callback = info.callback or _checked_number


def _checked_number(given: int | list[int] | None) -> int | list[int] | None:
    for number in given if isinstance(given, list) else [given or 0]:
        if abs(number) > MAX_NUMBER:
            raise typer.BadParameter(f"{number} is more than {MAX_NUMBER}, the largest number that the index can have.")
    return given


class PlainCommand(typer.core.TyperCommand):
    """A command whose help names an argument as it is written, without ``<list[Path]>`` behind it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for parameter in self.params:
            if isinstance(parameter, typer.core.TyperArgument):
                parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, that of the help included."""
        return _read_plainly(super().get_params(ctx))


class Group(typer.core.TyperGroup):
    """A command that has commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, those of completion and help included."""
        return _read_plainly(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take `NAME list` and `NAME` alone for the same, where one of them lists."""
        listing = self.commands.get("list")
        if listing is None:
            args = args[1:] if self.invoke_without_command and args[:1] == ["list"] else args
        elif not any(parameter.required for parameter in listing.params):
            has_name = any(not argument.startswith("-") for argument in args[:1])
            args = args if has_name or args[:1] == ["--help"] else ["list", *args]
        return super().parse_args(ctx, args)


def _read_plainly(parameters: list[Any]) -> list[Any]:
    """Have Typer read texts and paths without pydantic, which takes longer to load than most commands need."""
    for parameter in parameters:
        declared = parameter.type_descriptor
        kind = get_args(declared.annotation)[0] if declared.is_list else declared.annotation
        parameter.get_runtime_param = partial(_Plain, declared.parameter_info, kind)
    return parameters


class _Plain(RuntimeParam):
    """Reads the values of a parameter; others than texts and paths as Typer does.

    ``""`` is refused for a path: a shell writes it for a variable without a value, and `pathlib` reads this folder.
    """

    def _coerce_value(self, value: Any, param: Any, ctx: Any) -> Any:
        values = value if isinstance(value, list | tuple) else (value,)
        if self.annotation is Path and "" in values:
            raise typer.BadParameter("the path is empty. For this folder, give `.`", ctx=ctx, param=param)
        is_plain = self.annotation in (str, Path) and self.parameter_info.parser is None
        if not is_plain or not all(isinstance(one, str) for one in values):
            return build_runtime_param(param.type_descriptor).coerce(value, param, ctx)
        if self.annotation is Path:
            check = partial(coerce_cli_path, parameter_info=self.parameter_info, path_type=str, param=param, ctx=ctx)
            values = [Path(str(check(one))) for one in values]
        return list(values) if isinstance(value, list | tuple) else values[0]


class Commands(typer.Typer):
    """A command that has commands, each of which is `completed`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, cls=Group, **options)

    def command(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        """Add a command."""
        add = super().command(*arguments, **{"cls": PlainCommand, **options})
        return lambda command: add(completed(command))

    def callback(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        """Set what runs if no command is given."""
        add = super().callback(*arguments, **options)
        return lambda command: add(completed(command, is_above_others=True))


@contextmanager
def archive_files(settings: Settings) -> Iterator[LocalFile]:
    """Yield what gives the files of the archive, also those that only the object store has."""
    from node.registry import store_kind

    kind = store_kind(settings)
    if kind is None:
        root = settings.storage.root.absolute()
        yield lambda file: root / file.key
    else:
        with kind.files(settings) as local:
            yield local


def confirm(act: str, question: str, yes: bool) -> None:
    """Ask before what takes something away; `act` names it at the beginning of a sentence.

    Without a terminal to ask on, raises UsageError unless `yes` is given.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{act} needs a confirmation: without a terminal, give --yes")
    typer.confirm(question, abort=True)


def studies_or_series(root: Root, studies: list[str], series: list[str]) -> list[list[str]]:
    """Return pairs of a Study and a Series Instance UID of what is named; the latter is empty for a study itself.

    Raises BadParameter if there are series, and more than one study.
    """
    if series and len(studies) > 1:
        raise typer.BadParameter("--series is of one study: name that study alone.")
    found = [root.named(text, "study").study for text in studies]
    its = [root.named(text, "series", study=found[0]).series for text in series]
    return [[found[0], uid] for uid in its] if series else [[uid, ""] for uid in found]
