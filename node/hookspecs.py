"""Everything that an extension can add to the node: the one page of hook specifications (docs/extensions.md).

An extension is an instance of a subclass of `Extension`. Its attributes say what it adds, by name: a `Place` such as
``"voxelnode_hello.commands:hello"`` is imported when it is needed, so nothing loads what it does not use. The module of
the instance itself is imported at every start, and should import nothing but this page.

The node finds its own extensions by `node.registry.BUILT_IN`, and those of other packages by entry points in the group
``voxelnode.extensions``. ``[extensions] disabled`` switches an extension off: its table of the configuration stays
known, but nothing of it runs, is served, or stands in the conformance statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Settings = Any  # `node.settings.model.Settings`, which has the tables of extensions and so imports this page

Place = str
"""Where an object is, as ``package.module:name``."""

Panel = Literal["Run", "Convert", "Exchange", "Look", "Maintain"]
"""A title of ``voxelnode --help``."""


@dataclass(frozen=True, slots=True)
class Command:
    """``voxelnode NAME``: a function with the parameters of a Typer command, or a ``typer.Typer`` with subcommands.

    `name`: ``GROUP NAME`` is a command of one that has commands.
    `examples`: whole command lines, which end the help of the command.
    `before`: command before which it is listed; empty: last.
    """

    name: str
    panel: Panel
    place: Place
    examples: tuple[str, ...] = ()
    before: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """``[NAME]`` of the configuration, or ``[NAME.ANY]`` if `is_named`: a subclass of `SettingsSection`.

    A subclass of the model of a section of the core, with its name, adds keys to this section.

    The extension reads it by `Settings.table` (or `Settings.tables`). A key such as ``hl7_port`` is the port of a
    listener at ``hl7_host``, which no other listener may have; None: there is none.
    """

    name: str
    place: Place
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Router:
    """Routes of an ``APIRouter``: of REST (in the OpenAPI document), of DICOMweb, or of pages.

    Two extensions may have one, which is served once. Routes are served in a process beside the one that receives: what
    they change is a method of a repository, or an action, which is done there.

    `service`: of DICOMweb: the name of the service, for the conformance statement.
    `transactions`: of DICOMweb: a mapping of its functions to their `Transaction`, for the capabilities; empty: it is
        not in them.
    """

    kind: Literal["rest", "dicomweb", "pages"]
    place: Place
    service: str = ""
    transactions: Place = ""


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """A page in the menu.

    `before`: path of the page before which it stands; empty: last.
    `key`: letter that opens the page behind ``g``; empty: none.
    `badge`: name of a number beside the label: `badge_counts` in `node/web/pages/rendering.py`.
    `is_used`: place of a function that is called with the services of the node and the index, and returns whether the
        page has something to show; empty: always.
    `for_members`: whether accounts see it that see their projects only.
    """

    path: str
    label: str
    before: str = ""
    key: str = ""
    badge: str = ""
    is_used: Place = ""
    for_members: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A SOP class of PS3.6 for which the node is an SCP, beside its own.

    `verb`: what a peer needs in its `may`, such as ``"worklist"``.
    """

    sop_class_uid: str
    verb: str


Action = Callable[..., Mapping[str, Any]]
"""Changes what people decide about, or asks for it; its arguments and what it returns are JSON values."""


@dataclass(frozen=True, slots=True)
class Kind:
    """``kind = NAME`` of a table [destinations.NAME] or [hooks.NAME].

    `section`: the model of such a table: a subclass of `Destination` or `HookSettings` whose `kind` has this name.
    `place`: opens what such a table describes: see `Extension.destinations` and `Extension.hooks`.
    """

    name: str
    section: Place
    place: Place


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """Instances that become files of their own, such as spectra.

    `sop_classes`: SOP Class UIDs of all instances that may be of this kind; one that ends with a dot stands for all
        below it.
    `place`: a function without parameters that returns the `Objects` of one series, in the child process of a
        conversion.
    """

    sop_classes: frozenset[str]
    place: Place

    def may_be(self, sop_class_uid: str) -> bool:
        """Return whether instances of a SOP class may be of this kind."""
        return sop_class_uid in self.sop_classes or any(
            root.endswith(".") and sop_class_uid.startswith(root) for root in self.sop_classes
        )


@dataclass(frozen=True, slots=True)
class Statement:
    """Lines of the conformance statement.

    `sections`: by the title of a section: a text in Markdown, which takes the place of "Not supported." or is added
        below what the section says. Titles that the statement has twice have that of the chapter before them:
        ``CHAPTER/TITLE``.
    `tables`: a function of the settings that returns tables by name: those that stand in these texts as ``[table
        NAME]``, and rows for tables that the statement has, with the same columns; empty: there are none.
    `words`: by the name of a value that sentences of the statement have (`WORDS` of the extension `conformance`): the
        value.
    """

    sections: Mapping[str, Place] = field(default_factory=lambda: MappingProxyType({}))
    tables: Place = ""
    words: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Extension:
    """An extension. Everything has a default: define only what it adds."""

    name: str
    """In ``[extensions] disabled``, and in messages."""

    commands: Sequence[Command] = ()
    tables: Sequence[Table] = ()
    routers: Sequence[Router] = ()
    actions: Place = ""
    """A function that takes a `node.association.added.OpenedRoot`, and returns what commands and pages do on it, by
    names that are free (`node.control.actions`)."""
    menu: Sequence[MenuEntry] = ()
    services: Sequence[Service] = ()
    asks: Sequence[str] = ()
    """UIDs of the SOP classes that the node uses as SCU, for the conformance statement."""
    destinations: Sequence[Kind] = ()
    """Kinds of [destinations.NAME]: each stands for a `node.routing.held.OpenReceiver` if it takes instances, else for
    a `node.routing.held.DestinationKind`."""
    hooks: Sequence[Kind] = ()
    """Kinds of [hooks.NAME]: each stands for a `node.notify.channel.OpenChannel`."""
    objects: Sequence[ObjectKind] = ()
    statement: Statement = Statement()
    index_tables: Place = ""
    """An `IndexTables` of `node.index.rows.extension_tables`: its own tables in the index."""
    templates: str = ""
    """The package whose folder ``templates`` has the Jinja2 templates of its pages."""

    def mistakes(self, settings: Settings) -> Iterator[str]:
        """Yield a line for each rule between tables that a configuration breaks."""
        return iter(())

    def checks(self, settings: Settings) -> Iterator[Callable[[], Any]]:
        """Yield what `config check` does with the tables beyond their rules; each raises `UsageError`, or returns."""
        return iter(())

    def warnings(self, settings: Settings) -> Iterator[str]:
        """Yield what a start accepts of the tables, and is probably not meant: `config check` lists it."""
        return iter(())

    def run(self, node: Any) -> Any:
        """Return what runs in a node that receives, in its process; nothing of it has been started.

        Takes `node.association.added.Parts`, and returns its `Running`; None: nothing runs.
        """
