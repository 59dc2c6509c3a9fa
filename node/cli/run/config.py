"""``voxelnode config``, ``init`` and ``reload``; and KEY=VALUE on a command line: the keys of a table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.options import ChangedRoot, Commands, Configured, Json, PlainCommand, Root
from node.cli.output import Answer, Listing, listing, print_json, printable
from node.errors import UsageError, counted

_FIRST = """\
# What a first node needs: its defaults, and a sender as an example. Remove the "#" before what you set.
# `voxelnode config example` prints all keys that people set; `voxelnode config check` finds mistakes.

[storage]
#root = "voxelnode-data"        # folder of the archive, the index and the volumes

[dicom]
#ae_title = "VOXELNODE"
#port = 11112

# Without peers, only this machine can send. Once there is a peer, all other senders are rejected.
#[peers.CT1]
#ae_title = "CT1"
#networks = ["10.1.2.0/24"]     # that it may call from
#may = ["echo", "store", "commit"]
"""

app = Commands(help="Show, check or print an example of the configuration.", no_args_is_help=True)


@app.command()
def show(root: Root) -> Listing:
    """Print each value and its origin.

    The origin is the path of a file, environment, flag or default.
    """
    from node.settings.load import values_of

    file, values = root.settings.loaded_from.file, list(values_of(root.settings))
    rows = [
        {"section": key.rpartition(".")[0], "key": key.rpartition(".")[2], "value": _toml(value), "origin": origin}
        for key, value, origin in values
    ]
    data = {"file": file, "values": {k: {"value": v, "origin": origin} for k, v, origin in values}}
    return listing(f"file: {file or 'none'}", {name: name for name in rows[0]}, rows, data=data)


@app.command()
def check(configured: Configured) -> Listing:
    """List every mistake in it, and what a start would refuse.

    Exit 2 if there is any.
    """
    from node.control import checks

    try:
        settings, file = configured.settings, configured.settings.loaded_from.file
        problems, warnings = checks.problems(settings), checks.warnings(settings)
        if problems:
            raise UsageError("\n".join(problems))
    except UsageError as error:
        problems = str(error).splitlines()
        return Listing({"ok": False, "problems": problems}, error, failed=True, rows=_rows("problem", problems))
    senders = checks.senders(settings)
    lines = [f"warning: {printable(warning)}" for warning in warnings]
    lines += [f"{file or 'defaults and environment'}: valid", *([senders] if senders else [])]
    data = {"ok": True, "file": file, "problems": [], "warnings": warnings, "senders": senders}
    return Listing(data, "\n".join(lines), rows=_rows("warning", warnings))


def _rows(kind: str, sentences: Sequence[str]) -> list[dict[str, str]]:
    return [{"kind": kind, "detail": sentence} for sentence in sentences]


@app.command()
def example(json: Json = False) -> None:
    """Print the keys that people set, with comments.

    With --json, the JSON Schema of every key.
    """
    if json:
        from node.settings.model import Settings

        print_json(Settings.model_json_schema())
        return

    from node.settings.tables import example_toml

    print(example_toml(), end="")


def reload(root: ChangedRoot) -> Answer:
    """Have the running node read its configuration again.

    Peers, routes, hooks, retention and the level of the log are in force at once; the answer names what needs a
    restart. With a mistake anywhere, nothing changes.
    """
    from node.control.root import is_held

    if not is_held(root.existing()):
        raise UsageError(f"no node runs on {root.folder}: the next start reads the configuration")
    return in_force(root.order("reload"))


def _toml(value: object) -> str:
    from node.settings.tables import as_toml

    return "" if value is None else as_toml(value)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the file; created if missing.")] = Path(),
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of archive, index and volumes, for [storage] root.")
    ] = None,
) -> None:
    """Write a short voxelnode.toml and make its root."""
    from node.control.root import is_root, make_root
    from node.settings import DEFAULT_FILE
    from node.settings.core import Storage

    file, stated = folder / DEFAULT_FILE, (root or Storage().root).absolute()
    text = _FIRST.replace('#root = "voxelnode-data"', f"root = {_toml(stated)}")  # the same from every folder
    folder.mkdir(parents=True, exist_ok=True)
    is_new = not file.exists()
    if is_new:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    made = Configured(file).settings.storage.root.absolute()
    if not is_new and (root or is_root(made)):
        raise UsageError(f"{file} already exists and was not changed; remove it, or name another folder")
    make_root(made)
    print(f"{'wrote' if is_new else 'kept'} {file}; the root is {made}; next: voxelnode serve --config {file}")


Keys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Keys of the table, with their values; all others stay. Several values: may=echo,store.",
    ),
]
Drop = Annotated[int, typer.Option("--drop", metavar="N", min=0, help="Drop up to N messages that wait.")]

Unset = Annotated[
    list[str] | None,
    typer.Option("--unset", metavar="KEY", help="Remove a key from the table: it has its default again."),
]


class SetsKeys(PlainCommand):
    """A command that sets keys of a table; its help lists them."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the keys as the settings model describes them."""
        super().format_options(ctx, formatter)
        from node.settings.tables import described

        with formatter.section("Keys"):
            formatter.write_dl(described(ctx.parent.info_name))


def set_table(
    root: ChangedRoot, table: str, keys: Sequence[str] | None, unset: Sequence[str] | None, drop: int = 0, **more: Any
) -> dict[str, Any]:
    """Set keys of a table and remove others; return what that has done. Raises UsageError."""
    given = {**table_of(table.partition(".")[0], keys or ()), **more}
    if not (given or unset):
        raise UsageError("give KEY=VALUE for each key that changes, or --unset KEY")
    return root.order("set-table", table=table, keys=given, unset=unset or [], drops=drop)


def in_force(done: Mapping[str, Any], *more: str) -> Answer:
    """Return what a change of the configuration has done, for people, and what `more` there is to say."""
    lines = [f"removed: {done['removed']}"] if "removed" in done else []
    lines += [f"in force: {', '.join(done['changed'])}" if done["changed"] else "in force: no change"]
    lines += [f"needs a restart of the node: {', '.join(done['restart'])}"] if done["restart"] else []
    for one in done.get("reset", ()):
        lines.append(f"{one['key']} was {_written(one['was'])}, now the default: {_written(one['default'])}")
    lines += more
    lines += [done["senders"]] if done.get("senders") else []
    lines += [f"warning: {printable(warning)}" for warning in done.get("warnings", ())]
    lines += [f"{counted(done['dropped'], 'message')} that waited: dropped"] if done.get("dropped") else []
    return Answer(dict(done), "\n".join(lines))


def _written(value: Any) -> str:
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)


def table_of(section: str, keys: Sequence[str]) -> dict[str, Any]:
    """Return the values that keys of a section are given. Raises UsageError."""
    from node.settings.tables import is_secret, parsed

    table: dict[str, Any] = {}
    for given in keys:
        key, equals, text = given.partition("=")
        if not equals or key in table:
            raise UsageError(f"{given!r}: write each key once, as KEY=VALUE, such as to=PACS")
        if is_secret(section, key):
            raise UsageError(f"{key}: others see a command line: write it to a file, and give --secret-file")
        table[key] = parsed(section, key, text)
    return table
