"""``voxelnode config show|check|example``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_json, print_table

if TYPE_CHECKING:
    from node.settings.model import Settings

app = typer.Typer(help="Show, check or print an example of the configuration.", no_args_is_help=True)


@app.command()
def show(config: ConfigFile = None, root: Root = None, json: Json = False) -> None:
    """Print each value and its origin.

    The origin is default, file, environment or flag.
    """
    configuration = load(config, storage__root=root)
    values = list(configuration.values())
    if json:
        print_json(
            {"file": configuration.file, "values": {k: {"value": v, "origin": origin} for k, v, origin in values}}
        )
        return
    print_table(
        f"file: {configuration.file or 'none'}",
        ("section", "key", "value", "origin"),
        [(key.rpartition(".")[0], key.rpartition(".")[2], _toml(value), origin) for key, value, origin in values],
    )


@app.command()
def check(config: ConfigFile = None, json: Json = False) -> None:
    """List every mistake in it, and what a start would refuse.

    Exit 2 if there is any.
    """
    from node.errors import UsageError

    try:
        configuration = load(config)
        problems, warnings = _examined(configuration.settings)
        if problems:
            raise UsageError("\n".join(problems))
    except UsageError as error:
        if not json:
            raise
        print_json({"ok": False, "problems": str(error).splitlines()})
        raise typer.Exit(2) from error
    if json:
        print_json({"ok": True, "file": configuration.file, "problems": [], "warnings": warnings})
    else:
        print("".join(f"warning: {warning}\n" for warning in warnings), end="")
        print(f"{configuration.file or 'defaults and environment'}: valid")


def _examined(settings: Settings) -> tuple[list[str], list[str]]:
    """Return problems and warnings about files, ports, listeners and peers."""
    from node.control import checks

    return checks.problems(settings), checks.warnings(settings)


@app.command()
def example(json: Json = False) -> None:
    """Print every key with its description and default.

    With --json, as a JSON Schema.
    """
    if json:
        from node.settings.model import Settings

        print_json(Settings.model_json_schema())
        return

    from node.settings.example import example_toml

    print(example_toml(), end="")


def _toml(value: object) -> str:
    from node.settings.example import as_toml

    return "" if value is None else as_toml(value)
