"""KEY=VALUE on a command line: the keys of a table of the configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from node.cli.options import ChangedRoot, PlainCommand
from node.cli.output import Answer
from node.errors import UsageError, counted

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
