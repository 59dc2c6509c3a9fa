"""What people set in tables: a form that is saved unchanged leaves its file as it is, whatever keys the model has."""

import html
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import httpx2
import pytest
import tomlkit

from node.api import Role, Settings, UsageError
from node.children.pseudonyms import new_key_file
from node.control import checks
from node.control.configuration import pages_file
from node.extensions.administration.forms import CONTROLS
from node.settings.load import load
from node.settings.tables import LIMITS, fields_of, sections
from tests.protocol.conftest import make_keys
from tests.web.conftest import PASSWORD, Site, site_of

SECRET = "whsec_" + "A" * 43 + "="
TEXTS = "A=B", "CTImageStorage", "20:00-06:00", "10.1.2.0/24", "192.0.2.7", "https://b.example/", "pacs", "other"
"""Texts of which one is right for each key."""

REQUIRED: Mapping[str, dict[str, Any]] = {
    "peers": {"ae_title": "CT9"},
    "routes": {"to": ["pacs"]},
    "hooks": {"kind": "webhook", "on": ["series-quiet"], "url": "https://example.org/?x=1"},
    "retention": {},
}
WITH: tuple[dict[str, Any], ...] = ({}, {"may": ["echo", "query"]}, {"confirm": True}, {"host": "192.0.2.9"})
"""Keys that others need beside them."""

OTHER = {
    "peers": ("port", "4242"),
    "routes": ("attempts", "7"),
    "hooks": ("attempts", "7"),
    "retention": ("days", "77"),
}
"""A key of each section that is changed, with its new text."""


def values_of(annotation: Any, files: list[Path]) -> Iterator[Any]:
    """Values that a key of this type might have."""
    kind, inner = get_origin(annotation) or annotation, get_args(annotation)
    numbers: dict[Any, tuple[Any, ...]] = {bool: (True, False), int: (1234567, 7), float: (0.1234567, 7)}
    if kind is dict:
        yield from ({"modality": ["SEG", "SR"]}, {"InstitutionName": " A = B"})
        yield from ({"A=B": one} for one in values_of(inner[1], files))
    elif kind is tuple:
        yield from ([one] for one in values_of(inner[0], files))
    elif kind is Literal:
        yield from inner
    elif kind is Path:
        yield from map(str, files)
    elif kind in numbers:
        yield from numbers[kind]
    elif inner:
        for one in inner:
            yield from values_of(one, files)
    else:
        yield from (*TEXTS, "trial", "(0009,1010)", SECRET)


class Forms(HTMLParser):
    """The forms of a page, each with what a browser sends of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, list[str]]]] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        name = given.get("name", "")
        if tag == "form":
            self.found.append((given.get("action", ""), {}))
        elif tag in ("select", "textarea"):
            self._inside = name
        if name and (tag == "textarea" or (tag == "input" and (given.get("type") != "checkbox" or "checked" in given))):
            self._sent(name, given.get("value", ""))
        elif tag == "option" and "selected" in given:
            self._sent(self._inside, given["value"])

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag in ("select", "textarea") else self._inside

    def handle_data(self, data: str) -> None:
        values = self.found[-1][1].get(self._inside, []) if self.found else []
        if self.lasttag == "textarea" and self._inside:
            values[-1] = data.removeprefix("\n").replace("\n", "\r\n")

    def _sent(self, name: str, value: str) -> None:
        self.found[-1][1].setdefault(name, []).append(value)


class Editor:
    """An administrator's browser at a node whose drop-in has tables of a section."""

    def __init__(self, settings: Settings, section: str) -> None:
        self.settings, self.section = settings, section
        self.file = pages_file(settings.storage.root)
        self.site: Site = site_of(settings)
        self.site.account("chief", Role.ADMIN)
        self.client = self.site.client(headers={"Origin": self.site.origin, "Accept": "text/html"})
        entered = self.client.post("/login", data={"name": "chief", "password": PASSWORD})
        self.client.headers["Cookie"] = entered.headers["set-cookie"].partition(";")[0]
        self.content = self.file.read_bytes()

    def forms(self) -> dict[str, dict[str, list[str]]]:
        """The forms of the tables that are there, by name."""
        page = self.client.get(f"/administration/{'retention' if self.section == 'retention' else 'connections'}").text
        assert SECRET not in page
        assert "[&#39;" not in page
        found = [form for action, form in Forms(page).found if action == f"/administration/set/{self.section}"]
        return {form.get("name", [""])[0]: form for form in found if "is_new" not in form}

    def save(self, form: Mapping[str, list[str]], **changed: list[str]) -> httpx2.Response:
        seen = {"seen": [self.settings.loaded_from.digest]}
        return self.client.post(f"/administration/set/{self.section}", data={**form, **seen, **changed})

    def table(self, name: str) -> dict[str, Any]:
        """The keys that the file has now, which is put back then."""
        there = tomllib.loads(self.file.read_text()).get(self.section, {})
        self.file.write_bytes(self.content)
        self.site.services.actions["reload"](who="chief")
        return dict(there[name] if name else there)


def written(files: Path | None, root: Path, tables: Mapping[str, Any]) -> Settings:
    """The settings of a file beside a root whose drop-in has these tables, with a comment behind each key."""
    lines = tomlkit.dumps(tables).splitlines()
    pages_file(root).parent.mkdir(parents=True, exist_ok=True)
    pages_file(root).write_text("".join(f"{line}  # why\n" if line[:1].isalpha() else f"{line}\n" for line in lines))
    values: dict[str, Any] = {
        "storage": {"root": str(root), "reserve_bytes": 0},
        "dicom": {"host": "127.0.0.1", "port": 0},
        "web": {"port": 0, "authentication": "always"},
        "peers": {"pacs": {"ae_title": "PACS", "host": "192.0.2.5"}},
        "routes": {"other": {"to": ["pacs"], "where": 'modality == "CT"'}},
    }
    if files is not None:
        for key, name in (("certificate", "server.pem"), ("key", "server.key"), ("client_ca", "ca.pem")):
            values["dicom"][f"tls_{key}"] = str(files / name)
        values["deidentify"] = {"trial": {"key": str(files / "trial.key")}}
    (root.parent / "voxelnode.toml").write_text(tomlkit.dumps(values))
    return load(root.parent / "voxelnode.toml")


def is_right(section: str, table: Mapping[str, Any], files: Path, root: Path, key: str = "") -> bool:
    """Whether a configuration may have a table, in which a key is not the default."""
    with suppress(UsageError):
        settings = written(files, root, {section: {"x": table} if section in LIMITS else table})
        now = settings.retention if section == "retention" else getattr(settings, section)["x"]
        problems = [one for one in checks.problems(settings) if "none exists" not in one]  # there is no account yet
        return not problems and (not key or getattr(now, key) != fields_of(section)[key].default)
    return False


def tables_of(section: str, files: Path, root: Path) -> list[dict[str, Any]]:
    """Tables that have every key of the model between them, few of them."""
    tables: list[dict[str, Any]] = []
    for key in [key for key in fields_of(section) if key != "kind"]:
        values = list(values_of(fields_of(section)[key].annotation, [files / "ca.pem", files / "secret"]))
        for table in (*tables, {**REQUIRED[section]}):
            tried = (
                {**table, **more, key: value} for value in values for more in WITH if not more.keys() & table.keys()
            )
            found = next((one for one in tried if is_right(section, one, files, root, key)), None)
            if found is not None:
                tables = [*(one for one in tables if one is not table), found]
                break
        else:
            raise AssertionError(f"{section}.{key}: TEXTS has no value for it")
    return tables


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a configuration may name: certificates, a secret, the key of pseudonyms."""
    files = make_keys(tmp_path_factory.mktemp("keys"))
    (files / "secret").write_text(SECRET)
    new_key_file(files / "trial.key")
    return files


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("section", REQUIRED)
def test_every_key_outlives_a_saved_form_and_goes_by_its_name_alone(section: str, files: Path, tmp_path: Path) -> None:
    scratch, root = tmp_path / "scratch" / "root", tmp_path / "root"
    tables = tables_of(section, files, scratch)
    assert set().union(*tables) == set(fields_of(section))
    for number, table in enumerate(tables):
        name = f"x{number}" if section in LIMITS else ""
        editor = Editor(written(files, root, {section: {name: table} if name else table}), section)
        before = getattr(editor.settings, section)
        form = editor.forms()[name]
        assert editor.save(form).status_code == 303
        assert (editor.file.read_bytes(), getattr(editor.settings, section)) == (editor.content, before)
        other, text = OTHER[section]
        for sent in (form, {field: form[field] for field in ("name",) if field in form}):
            assert editor.save(sent, **{other: [text]}).status_code == 303
            assert editor.table(name) == {**table, other: int(text)}, "what is not sent stays as well"
        for key in set(table) - {"kind"}:
            emptied = editor.save(form, **{key: [""]})
            assert editor.table(name) in (table, {**table, key: []}), "an empty field removes nothing"
            removed = editor.save(form, unset=[key])
            rest = {one: value for one, value in table.items() if one != key}
            may_go = (
                key in form and not fields_of(section)[key].is_required() and is_right(section, rest, files, scratch)
            )
            assert editor.table(name) == (rest if may_go else table), (key, html.unescape(removed.text))
            if may_go and emptied.status_code != 303:
                assert f"Remove {key}" in html.unescape(emptied.text)
        editor.site.close()


def test_a_peer_of_a_project_keeps_it_through_the_form_of_a_page(tmp_path: Path) -> None:
    root = tmp_path / "root"
    keys = {"ae_title": "PTWO", "may": ["query"], "projects": ["p2"], "takes": ["CTImageStorage"]}
    editor = Editor(written(None, root, {"peers": {"P2": keys}}), "peers")
    form = editor.forms()["P2"]
    assert editor.save(form, host=["192.0.2.8"]).status_code == 303
    assert editor.table("P2") == {**keys, "host": "192.0.2.8"}
    stale = editor.save(form, seen=["0" * 64])
    assert (stale.status_code, "has changed meanwhile" in stale.text) == (400, True)
    gone = editor.save(form, name=["P3"])
    assert (gone.status_code, "somebody has removed it" in gone.text) == (400, True)
    editor.site.close()


def test_no_key_is_called_as_another_field_of_a_form_and_an_empty_list_is_never_all() -> None:
    assert not any(CONTROLS & fields_of(section).keys() for section in REQUIRED)
    for name, model in sections():
        for key, field in model.model_fields.items():
            said = (field.description or "").partition("empty: ")[2].partition(" ")[0].strip(".;,")
            assert said not in ("all", "any", "every", "everyone", "the"), (
                f"{name}.{key}: unset is all, an empty list is not"
            )
    for table in ({"peers": {"a": {"ae_title": "A", "projects": []}}}, {"web": {"oidc": {"allowed": []}}}):
        with pytest.raises(ValueError, match="is empty; leave it out for the default"):
            Settings.model_validate(table)
