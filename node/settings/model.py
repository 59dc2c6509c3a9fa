"""Every key of the configuration with its default, unit and rules, in one typed model.

The configuration is read once. Each part of the node receives its own section, never the file or the environment. Flags
override the environment (``VOXELNODE_SECTION__KEY``), which overrides the TOML file, which overrides these defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, get_args

from pydantic import BeforeValidator, Field, PrivateAttr, SerializeAsAny, create_model

from node.errors import meant, nearest
from node.registry import (
    CORE,
    DEIDENTIFICATION,
    INDEX_BACKEND,
    RESULTS,
    STORE,
    KindTable,
    installed,
    is_on,
    refused,
    section_at,
    sections_of,
)
from node.settings import core
from node.settings.peers import Dicom, Peer, contradictions
from node.settings.section import Convert, HookName, SettingsSection, table_of

DROP_INS = "conf.d"
"""Folder of the drop-ins, beside the first file and in the root."""

PAGES_FILE = "90-pages.toml"
"""Drop-in of the root that the pages and commands change."""

Drafts = Mapping[Path, bytes]
"""Contents of files that are not written yet, by their resolved paths."""

_Table = TypeVar("_Table", bound=SettingsSection)

OF_AN_EXTENSION = "; if an extension adds it, install that, and restart a node that runs"
"""The end of a message about an unknown kind or section: a node knows the extensions that its start found."""


def _of_kind(table: KindTable) -> BeforeValidator:
    """Return the validator that parses a table [hooks.NAME] or [destinations.NAME] by the model of its kind."""

    def parsed(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value  # it was parsed before, or is no table
        models, kind = sections_of(table), value.get("kind")
        if isinstance(kind, str) and kind in models:
            return models[kind].model_validate(value)
        known = ", ".join(f'"{name}"' for name in models)
        if kind is not None:
            raise ValueError(f"kind = {kind!r} is none of {known}{meant(str(kind), models) or OF_AN_EXTENSION}")
        fitting = [name for name, model in models.items() if value.keys() <= model.model_fields.keys()]
        meant_kind = f'kind = "{fitting[0]}" fits' if len(fitting) == 1 else f"it is one of {known}"
        raise ValueError(f"kind is missing: {meant_kind}")

    return BeforeValidator(parsed)


class ExtensionsSettings(SettingsSection):
    """[extensions]: what is added to the node (docs/extensions.md)."""

    disabled: tuple[str, ...] = Field(
        (), description="Extensions that are switched off; `voxelnode config check` lists all."
    )


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the values of a configuration come from.

    `file`: the one that was read, if any. `origins` maps a dotted key such as ``"dicom.port"`` to the path of a file,
    ``"defaults file"``, ``"environment"``, ``"flag"`` or the option of a command, such as ``"--port"``; all other keys
    have their defaults.
    `digest`: of the files that were read. `reread`: returns the settings of the files as they are now,
    with drafts in place of some; None: the settings were not read from anywhere. `restart`: keys whose values in the
    files take effect at the next start.
    """

    file: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    digest: str = field(default="", compare=False)
    reread: Callable[[Drafts], Any] | None = field(default=None, compare=False)
    restart: tuple[str, ...] = ()

    def file_of(self, table: str) -> Path | None:
        """Return the file that has a table, such as ``peers.CT1``; None: no file has it."""
        origins = (self.origins[key] for key in self.keys_of(table))
        return next((Path(origin) for origin in origins if is_file(origin)), None)

    def keys_of(self, table: str) -> list[str]:
        """Return the keys of a table that are set anywhere."""
        return [key for key in self.origins if key.startswith(f"{table}.")]

    def is_of_pages(self, table: str) -> bool:
        """Return whether the pages have written a table, and nothing else sets a key of it."""
        files = {Path(self.origins[key]) for key in self.keys_of(table)}
        return bool(files) and all(file.name == PAGES_FILE and file.parent.name == DROP_INS for file in files)


def is_file(origin: str) -> bool:
    """Return whether an origin of a value is a file, and not the environment, an option or another default."""
    return origin not in ("environment", "flag", "defaults file") and not origin.startswith("--")


IN_FORCE = "peers", "routes", "hooks", "retention"
"""Tables that a running node takes over from files that have changed, beside the level of the log."""


class Settings(SettingsSection):
    """The tables of the core. The name is bound below to the whole configuration, with the tables of extensions."""

    storage: core.Storage = core.Storage()
    journal: core.JournalSettings = core.JournalSettings()
    index: core.IndexSettings = core.IndexSettings()
    cluster: core.ClusterSettings = core.ClusterSettings()
    dicom: Dicom = Dicom()
    peers: dict[str, Peer] = Field(default_factory=dict)
    series: core.SeriesSettings = core.SeriesSettings()
    convert: Convert = Convert()
    retention: core.RetentionSettings = core.RetentionSettings()
    web: core.Web = core.Web()
    hooks: dict[HookName, Annotated[SerializeAsAny[core.HookSettings], _of_kind("hooks")]] = Field(default_factory=dict)
    destinations: dict[HookName, Annotated[SerializeAsAny[core.DestinationSettings], _of_kind("destinations")]] = Field(
        default_factory=dict
    )
    routes: dict[HookName, core.Route] = Field(default_factory=dict)
    log: core.LogSettings = core.LogSettings()
    extensions: ExtensionsSettings = ExtensionsSettings()

    _loaded_from: Sources = PrivateAttr(default_factory=Sources)
    _followers: list[Callable[[], None]] = PrivateAttr(default_factory=list)

    @property
    def loaded_from(self) -> Sources:
        """The files that were read, and the origins of the values."""
        return self._loaded_from

    def note_sources(self, sources: Sources) -> None:
        """Note from where the values are."""
        self._loaded_from = sources

    def put_in_force(self, new: Settings, sources: Sources) -> None:
        """Take over the tables of `IN_FORCE`, and have everybody follow who has asked for it.

        The mappings are replaced, so that who goes through them meets no change.
        """
        self._take(new, sources)
        for follow in self._followers:
            follow()

    def with_tables_of(self, new: Settings, sources: Sources) -> Self:
        """Return a copy with what `put_in_force` takes over."""
        copy = self.model_copy()
        copy._take(new, sources)
        return copy

    def _take(self, new: Settings, sources: Sources) -> None:
        self.__dict__.update({table: getattr(new, table) for table in IN_FORCE})
        self.__dict__["log"] = self.log.model_copy(update={"level": new.log.level})
        self._loaded_from = sources

    def apart(self) -> Self:
        """Return a copy for another process: nobody follows it, and it reads no files again."""
        copy = self.model_copy()
        copy._followers = []
        copy._loaded_from = replace(self._loaded_from, reread=None)
        return copy

    def follow(self, follow: Callable[[], None]) -> None:
        """Call `follow` each time that what is in force may have changed."""
        self._followers.append(follow)

    def mistakes(self) -> list[str]:
        """Return the rules between tables that are broken."""
        return list(self._mistakes())

    def table(self, model: type[_Table]) -> _Table:
        """Return the table of an extension."""
        value: _Table = getattr(self, _TABLES[model])
        return value

    def tables(self, model: type[_Table]) -> Mapping[str, _Table]:
        """Return the tables of an extension that have names, such as ``[deidentify.NAME]``, by these names."""
        value: Mapping[str, _Table] = getattr(self, _TABLES[model])
        return value

    @property
    def shares_index(self) -> bool:
        """Whether several hosts may share the index and the object store."""
        return self.index.url is not None and self.storage.url is not None

    @property
    def acknowledge(self) -> core.Acknowledge:
        """What an instance waits for before it is acknowledged: as configured, or the default."""
        return self.journal.acknowledge or ("index" if self.shares_index else "local")

    @property
    def holder(self) -> str:
        """The name of this host among those that may share index and object store; empty if it has them for itself."""
        return self.cluster.name if self.shares_index else ""

    def _mistakes(self) -> Iterator[str]:
        yield from self._mistakes_of_hosts()
        if self.journal.acknowledge == "object" and self.storage.url is None:
            yield 'journal: acknowledge = "object" needs an object store: set [storage] url, or use "index"'
        yield from self._switched_off()
        yield from contradictions(self.peers)
        yield from self._mistakes_of_destinations()
        for name, route in self.routes.items():
            for mistake in self._mistakes_of_otherwise(name, route):
                yield f"routes.{name}: otherwise: {mistake}"
        yield from self._mistakes_of_extensions()

    def _mistakes_of_extensions(self) -> Iterator[str]:
        names = [extension.name for extension in installed()]
        for name in self.extensions.disabled:
            if name in CORE:
                yield f"extensions: disabled: {name!r} is a part of the node: {CORE[name]}"
            elif name not in names:
                yield f"extensions: disabled: {name!r} is not an extension{nearest(name, names)}"
        for extension in installed():
            yield from extension.mistakes(self)

    def _mistakes_of_hosts(self) -> Iterator[str]:
        if not self.shares_index and set(self.cluster.roles) != set(get_args(core.Role)):
            yield "cluster: roles share work of hosts with one index and one store: set [index] url and [storage] url"
        if self.index.url is not None and core.HOST_NAME.fullmatch(self.cluster.name) is None:
            yield f"cluster: the machine is called {self.cluster.name!r}: set host to a name without spaces"

    def _switched_off(self) -> Iterator[str]:
        used = [
            ("index: url", INDEX_BACKEND, self.index.url is not None),
            ("storage: url", STORE, self.storage.url is not None),
            *((f"hooks.{name}: results", RESULTS, hook.results) for name, hook in self.hooks.items()),
            *(
                (f"routes.{name}: deidentify", DEIDENTIFICATION, bool(one.deidentify))
                for name, one in self.routes.items()
            ),
        ]
        for key, place, is_used in used:
            if is_used and not is_on(self, place):
                yield f"{key} is of an extension that [extensions] disabled switches off"

    def _mistakes_of_destinations(self) -> Iterator[str]:
        for both in sorted(self.peers.keys() & self.destinations.keys()):
            yield f"destinations.{both}: [peers] has the same name, so that a route could not tell them apart"
        known = [*self.destinations, *self.called_peers]
        if "-" in self.routes:
            yield "routes.-: the name stands for what is sent by hand"
        for name, route in self.routes.items():
            for destination in route.to:
                if destination not in known:
                    yield (
                        f"routes.{name}: to: {destination!r} is neither a name in [destinations] nor that of a peer in "
                        f"[peers] with a host{nearest(destination, known) if known else ''}"
                    )

    def _mistakes_of_otherwise(self, name: str, route: core.Route) -> Iterator[str]:
        for other_name in route.otherwise or ():
            other = self.routes.get(other_name)
            if other is None:
                yield f"{other_name!r} is not a route{nearest(other_name, self.routes)}"
            elif name in self.before(other_name):
                yield f"routes.{other_name} is in turn for what this route leaves: one of them must go first"
            elif other.where is None and not other.otherwise:
                yield f"routes.{other_name} has no where and takes everything, so that nothing is left for this route"
            elif other.when != route.when:
                yield f"routes.{other_name} has when = {other.when!r}, which must be that of this route"

    def before(self, name: str) -> list[str]:
        """Return a route, and all that go before it by `otherwise`."""
        found: list[str] = []
        left = [name]
        while left:
            one = left.pop()
            if one in self.routes and one not in found:
                found.append(one)
                left += self.routes[one].otherwise or ()
        return found

    @property
    def receivers(self) -> list[str]:
        """Names of everything to which instances can be sent: destinations that take them, and peers with a host."""
        return [*(name for name, one in self.destinations.items() if one.takes_instances), *self.called_peers]

    @property
    def called_peers(self) -> list[str]:
        """Names of the peers that the node can call: those with a host."""
        return [name for name, peer in self.peers.items() if peer.host is not None]

    @property
    def bind_host(self) -> str:
        """The address to listen on: 127.0.0.1, unless host is set or peers are configured."""
        return self.dicom.host or ("0.0.0.0" if self.peers else "127.0.0.1")


_TABLES: dict[type[SettingsSection], str] = {}
"""The tables of extensions by their models."""


def _with_keys(base: type[SettingsSection], models: list[type[SettingsSection]]) -> Any:
    """Return the type of a section of the core to which extensions add keys: subclasses of its model."""
    model: Any = models[0] if len(models) == 1 else create_model(base.__name__, __base__=tuple(models))

    def with_defaults(value: Any) -> Any:
        """Give a table that a program has made of the core's keys those of the extensions."""
        is_of_core = isinstance(value, base) and not isinstance(value, model)
        return {key: getattr(value, key) for key in value.model_fields_set} if is_of_core else value

    return Annotated[model, BeforeValidator(with_defaults)], model()


OF_CORE: Mapping[str, type[SettingsSection]] = {
    name: table_of(field.annotation) for name, field in Settings.model_fields.items()
}
"""The models of the sections of the core, without the keys that extensions add."""


def _with_tables_of_extensions(base: type[Settings]) -> type[Settings]:
    """Return the model of the whole configuration."""
    fields: dict[str, Any] = {}
    added: dict[str, list[type[SettingsSection]]] = {}
    for extension in installed():
        for table in extension.tables:
            model: Any = section_at(extension, table.place)
            own = OF_CORE.get(table.name)
            if not table.is_named and (
                required := [key for key, field in model.model_fields.items() if field.is_required()]
            ):
                raise refused(extension, f"[{table.name}] may be left out, so {required[0]} needs a default")
            if own is not None and issubclass(model, own) and not table.is_named:
                added.setdefault(table.name, []).append(model)
            elif own is not None or table.name in fields:
                raise refused(extension, f"there is a table [{table.name}] already")
            else:
                default: Any = Field(default_factory=dict) if table.is_named else model()
                fields[table.name] = (dict[HookName, model] if table.is_named else model, default)
            _TABLES[model] = table.name
    for name, models in added.items():
        fields[name] = _with_keys(OF_CORE[name], models)
    return create_model(
        base.__name__, __base__=base, __module__=base.__module__, __doc__="The whole configuration.", **fields
    )


if not TYPE_CHECKING:
    Settings = _with_tables_of_extensions(Settings)
