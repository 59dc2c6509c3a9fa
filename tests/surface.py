"""What programs, scripts and habits of other people rely on (docs/upgrade.md), taken from its sources.

``python -m tests.surface`` keeps it in tests/surface.json for a release, with its digest. A test compares the tree with
what is kept: the newest section of CHANGELOG.md names what is gone or narrower, in backticks and as it is named here,
below *Changed* or *Removed*.
"""

import ast
import datetime as dt
import hashlib
import inspect
import json
import re
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, get_origin
from unittest.mock import patch

import typer
from pydantic import BaseModel
from typer.main import get_command

import voxelnode
from node.cli import application as command_line
from node.errors import UsageError, VoxelnodeError
from node.registry import KIND_TABLES, resolve
from node.settings.core import HookEvent
from node.settings.model import Settings
from node.settings.tables import kinds
from tests import field_tables, make
from tests.web.conftest import Site, open_site

ROOT = Path(__file__).resolve().parents[1]
KEPT, DIGEST = ROOT / "tests/surface.json", ROOT / "tests/surface.sha256"

PUBLIC: str = resolve("node.version:PUBLIC")

Surface = dict[str, Any]
"""What there is to say of each name."""

WORDS = {
    "prefix of variables": "node.settings:ENVIRONMENT_PREFIX", "mark in variables": "node.settings.load:NESTING",
    "prefix of hook variables": "node.notify.channel:HOOK_VARIABLES", "event of hooks": "node.settings.core:HookEvent",
    "placeholder": "node.extensions.channels.settings:PLACEHOLDERS", "log field": "node.runtime.logs:ALLOWED_FIELDS",
    "event": "node.index.rows.models.history:EventKind", "reason": "node.volume.reasons:Reason",
    "warning": "node.volume.reasons:WarningKind", "finding": "node.lifecycle.fsck:Kind",
    "refused copy": "node.extensions.deidentify.deidentification:RefusalReason",
    "ending of results": "node.extensions.results.manifest:KINDS", "selector": "node.selector.fields:FIELDS",
    "BIDS rule": "node.extensions.bids.rules:VOLUME_FIELDS", "token": "node.conversion.naming:TOKENS",
    "letter": "node.conversion.naming:DCM2NIIX", "token of nobody": "node.conversion.naming:OF_NOBODY",
    "geometry": "node.volume.model:Geometry", "kind": "node.volume.model:VolumeKind",
}  # fmt: skip
"""Words that programs meet, by what they are, and where they are."""

UID, TOKEN = re.compile(r"\d+(\.\d+){2,}"), re.compile(r"(?<=\d-)[0-9a-f]{8}\b")


def words() -> Surface:
    """Return the words of `WORDS`, of problems and of log lines, and variables of the environment."""
    sources = [path.read_text("utf-8") for path in sorted((ROOT / "node").rglob("*.py"))]
    variables = re.findall(r'"(?:VOXELNODE_|\{\w+\})([A-Z]{6,})"', "".join(sources))
    found: Surface = {f"problem {one.slug}": one.status for one in resolve("node.web.problem_types:PROBLEM_TYPES")}
    found |= dict.fromkeys([*(f"variable {name}" for name in variables), *map("log {}".format, _logged(sources))])
    for kind, place in WORDS.items():
        values = resolve(place)
        for value in [values] if isinstance(values, str) else get_args(values) or values:
            of = values[value] if isinstance(values, Mapping) else None
            of = [of.type, of.several, *of.choices] if hasattr(of, "choices") else of
            found[f"{kind} {value}"] = None if " " in str(of) and isinstance(of, str) else of
    return found


def _logged(sources: list[str]) -> Iterator[str]:
    """Yield the events of log lines, also those that a call chooses from, or that have a name before."""
    logs = re.compile(r"\blog\.\w+$|(^|\.)(debug|info|warning|error|exception|critical|log|level)$")
    for parts in ([*ast.walk(ast.parse(source))] for source in sources):
        named = [(ast.unparse(one.targets[0]), one.value) for one in parts if isinstance(one, ast.Assign)]
        calls = [one for one in parts if isinstance(one, ast.Call) and one.args and logs.search(ast.unparse(one.func))]
        for given in [each for call in calls for each in ast.walk(call.args[0])]:
            for one in [given, *(of for name, of in named if isinstance(given, ast.Name) and name == given.id)]:
                texts = (str(each.value) for each in ast.walk(one) if isinstance(each, ast.Constant))
                yield from (text for text in texts if re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", text))


def commands() -> Surface:
    """Return options and arguments, by the words of their command, and the statuses with which commands end."""
    found: Surface = {}

    def walk(line: str, command: Any) -> None:
        found[line] = {}
        arguments = [each.name for each in command.params if each.param_type_name == "argument"]
        for each in command.params:
            found[f"{line} {each.name.upper() if each.name in arguments else max(each.opts, key=len)}"] = {
                "type": _type(each.type_descriptor.annotation), "default": _plain(each.default),
                "names": [*each.opts, *each.secondary_opts], "required": ["yes"] * each.required,
                "bounds": {"min": each.min, "max": each.max, "values": each.nargs, "repeated": each.multiple},
                "place": arguments.index(each.name) if each.name in arguments else None,
            }  # fmt: skip
        for name, inner in getattr(command, "commands", {}).items():
            walk(f"{line} {name}", inner)

    walk("voxelnode", get_command(command_line.application()))
    for end in (UsageError("x"), typer.BadParameter("x"), VoxelnodeError("x"), OSError("x"), KeyboardInterrupt()):
        with patch.object(command_line, "application", side_effect=end), patch("sys.stderr"):
            try:
                command_line.main(["status"])
            except SystemExit as ended:
                found[f"exit status of {type(end).__name__}"] = ended.code
    return found


def _type(annotation: Any) -> Any:
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return {"choices": list(inner)}
    return [_type(one) for one in inner] if inner else _plain(annotation)


def _plain(value: Any) -> str:
    """Return the text of an annotation or a default, without modules, which differ from one Python to another."""
    text = inspect.formatannotation(value) if isinstance(value, type) else re.sub(" at 0x[0-9a-f]+", "", repr(value))
    return re.sub(r"\b[A-Za-z_][\w.]*\.(?=[A-Za-z_])", "", text)


def python_names() -> Surface:
    """Return parameters of functions and methods of the Python API, and what else its classes have."""
    named = {f"voxelnode.api.{name}": getattr(voxelnode.api, name) for name in voxelnode.api.__all__}
    own = {f"voxelnode.{name}": getattr(voxelnode, name) for name in voxelnode.__all__}
    for module in map(resolve, ("node.control.opened", "node.control.handlers")):
        classes = {
            one.__name__: one for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__
        }
        own |= {name: one for name, one in classes.items() if isinstance(one, type) and name[0] != "_"}
    members = {
        f"{name}.{key}": one for name, of in own.items() if isinstance(of, type) for key, one in vars(of).items()
    }
    named |= own | {name: one for name, one in members.items() if "._" not in name}
    return {name: _parameters(one) for name, one in named.items() if "__" not in name}


def _parameters(one: Any) -> Any:
    try:
        signature = inspect.signature(one.fget if isinstance(one, property) else one)
    except (TypeError, ValueError):
        return one if isinstance(one, str | int | float) else type(one).__name__
    if isinstance(one, type) and issubclass(one, BaseModel):
        return "model"
    parameters = signature.parameters.items()
    return {
        "takes": {name: [_plain(each.annotation), _plain(each.default)] for name, each in parameters},
        "places": [f"{place} {name}" for place, (name, each) in enumerate(parameters) if "POS" in each.kind.name],
        "required": [name for name, each in parameters if each.default is each.empty and "VAR_" not in each.kind.name],
        "returns": _plain(signature.return_annotation),
    }


def _fields(name: str, schema: Any, defs: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a JSON schema says of an object and of each field in it, by dotted names."""
    yield name, {key: value for key, value in schema.items() if key not in ("properties", "$defs")}
    for key, field in schema.get("properties", {}).items():
        yield f"{name}.{key}".strip("."), field
        for inner in re.findall(r'"#/\$defs/(\w+)"', json.dumps(field)):
            if "properties" in defs[inner]:
                yield from _fields(f"{name}.{key}".strip("."), defs[inner], defs)


def schemas() -> Surface:
    """Return the keys of the configuration, and the fields of manifests of results."""
    models = {"": Settings, "manifest": resolve("node.extensions.results.manifest:Manifest")}
    models["manifest.results[]"] = resolve("node.extensions.results.manifest:ManifestResult")
    models |= {f"{table}.NAME({kind})": model for table in KIND_TABLES for kind, model, _ in kinds(table)}
    every = {name: model.model_json_schema() for name, model in models.items()}
    return {key: of for name, one in every.items() for key, of in _fields(name, one, one.get("$defs", {}))}


def rest(document: Any) -> tuple[Surface, Surface]:
    """Return what REST takes, and what it answers."""
    every, taken, given = document["components"]["schemas"], Surface(), Surface()
    for path, of_path in document["paths"].items():
        for method, operation in of_path.items():
            name = f"{method.upper()} {path}"
            given[name] = {code: one if code < "4" else "Problem" for code, one in operation.pop("responses").items()}
            taken |= {f"{name}?{each['name']}": each for each in operation.pop("parameters", ())}
            taken[name] = operation
    bodies: set[str] = set()
    while (
        more := {one for one in re.findall(r'schemas/([\w-]+)"', json.dumps([taken, [every[b] for b in bodies]]))}
        - bodies
    ):
        bodies |= more
    for name, schema in every.items():
        (taken if name in bodies else given).update(_fields(name, schema, {}))
    return taken, given


def views(root: Path) -> Surface:
    """Return the type of each column of each documented view."""
    with closing(sqlite3.connect(root / "index.sqlite")) as index:
        names = [name for (name,) in index.execute("SELECT name FROM sqlite_master WHERE type = 'view'")]
        return {f"{name}.{row[1]}": row[2] for name in names for row in index.execute(f"PRAGMA table_info({name})")}


def metrics(site: Site) -> Surface:
    """Return the type of each metric, and its labels."""
    own = resolve("node.runtime.metrics:Metrics")()
    made = [getattr(own, name) for name in vars(type(own)) if name[0] != "_"]
    labels = {one._name: one._labelnames for one in made if hasattr(one, "_labelnames")}
    families = [*own.collect(), *resolve("node.web.monitoring:NodeGauges")(site.services).collect()]
    every = {one.name: (one.type, labels.get(one.name, getattr(one, "_labelnames", ()))) for one in families}
    return {name: {"type": of, "labels": sorted(its)} for name, (of, its) in every.items()}


def documents(site: Site, folder: Path) -> Surface:
    """Return fields and types of messages, sidecars and ``conversion.json``, and paths below ``volumes``."""
    made = [
        *make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.4"),
        *make.duplicate_series(),
        make.structured_report(),
    ]
    make.saved(made, folder / "in")
    (folder / "in" / "notes.txt").write_text("x")
    site.take(*made)
    site.convert()
    voxelnode.convert(folder / "in", folder / "out", formats=("nifti", "mhd", "npz"))
    found: Surface = {f"sidecar: {name}": None for name in field_tables.sources()}
    with site.store.index.reading() as index:
        for event in get_args(HookEvent):
            now = dt.datetime.now(dt.UTC)
            message = resolve("node.notify.message:compose_test")(
                index, event, ("1.2.3", "1.2.3.4"), "AE", now, include_patient=True
            )
            _add(f"message {event}: ", message.content, found)
    for path in [*site.root.glob("volumes/**/*"), *folder.glob("out/**/*")]:
        if path.suffix == ".json":
            _add(
                "conversion.json: " if path.name == "conversion.json" else "sidecar: ",
                json.loads(path.read_text()),
                found,
            )
        if path.is_relative_to(site.root):
            found[TOKEN.sub("TOKEN", UID.sub("UID", str(path.relative_to(site.root))))] = None
    return found


def _add(name: str, value: Any, found: Surface) -> None:
    name = UID.sub("UID", name)
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        _add(f"{name}[]" if isinstance(key, int) else f"{name}.{key}".replace(": .", ": "), inner, found)
    found[name] = sorted({*(found.get(name) or ()), type(value).__name__})


def surface(folder: Path) -> dict[str, Any]:
    """Return what is said of each name of each surface of this tree, with a root that is made in `folder`."""
    with open_site(folder / "root") as site:
        taken, given = rest(site.client().get("/api/v1/openapi.json").json())
        found = {"commands": commands(), "configuration": schemas(), "Python": python_names(), "words": words()}
        found |= {"documents": documents(site, folder), "views": views(site.root), "metrics": metrics(site)}
    found |= {"requests": taken, "answers": given}
    return {of: {name: sorted(_said(one)) for name, one in names.items()} for of, names in found.items()}


TEXTS = {"description", "title", "summary", "tags", "examples", "x-problem-types"}
"""Keywords of JSON Schema and OpenAPI that people read."""
NARROWER = r"/(pattern|const|exclusive\w+|m(in|ax)\w+|additionalProperties)=|/required\["
"""What asks more of a value that is given than was asked before."""


def _said(of: Any, at: str = "") -> Iterator[str]:
    """Yield what is said, a line for each end of a tree; lists have no order."""
    if isinstance(of, dict):
        for key in of.keys() - TEXTS:
            yield from _said(of[key], f"{at}/{key}")
    elif isinstance(of, list | tuple):
        for one in of:
            name = (
                next((one[key] for key in ("$ref", "type", "name") if key in one), "") if isinstance(one, dict) else ""
            )
            yield from _said(one, f"{at}[{name}]") if name else (f"{at}[{one}]",)
    else:
        yield f"{at}={of}"


def broken(kept: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of which less is there than was kept, or for which more is asked, and what that is."""
    found = {}
    for of, names in now.items():
        found |= dict.fromkeys(kept[of].keys() - names.keys(), "is gone")
        for name, said in names.items():
            old = kept[of].get(name)
            if old is None:  # an addition, unless a command that was there needs it now
                less = {"/required[yes]"} & {*said} if name.rpartition(" ")[0] in kept[of] else set()
            else:
                added, less = {*said} - {*old}, {*old} - {*said}
                more = r"/anyOf\[" if of == "answers" else NARROWER + r"|/enum\[" * ("/enum[" not in "".join(old))
                less |= {one for one in added if re.search(more, one)}
            if less:
                found[name] = ", ".join(sorted(less))
    return found


if __name__ == "__main__":
    last = json.loads(KEPT.read_text())["release"]
    if ".dev" in PUBLIC and f"## [{last}] - unreleased" not in (ROOT / "CHANGELOG.md").read_text():
        sys.exit(f"{last} is released: what it promises stays as it is until the next release")
    with TemporaryDirectory() as folder:
        kept = {"release": PUBLIC.partition(".dev")[0], **surface(Path(folder))}
    text = json.dumps(kept, sort_keys=True).replace('], "', '],\n"')  # a line for each name
    KEPT.write_text(f"{text}\n", encoding="utf-8")
    DIGEST.write_text(hashlib.sha256(KEPT.read_bytes()).hexdigest(), encoding="utf-8")
