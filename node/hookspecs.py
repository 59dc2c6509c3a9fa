"""Everything that an extension can add to the node: the one page of hook specifications (docs/extensions.md).

An extension is an instance of a subclass of `Extension`. Its attributes say what it adds, by name: a `Place` such as
``"voxelnode_hello.commands:hello"`` is imported when it is needed, so nothing loads what it does not use. The module of
the instance itself is imported at every start, and should import nothing but this page.

The node finds its own extensions by `node.registry.BUILT_IN`, and those of other packages by entry points in the group
``voxelnode.extensions``. ``[extensions] disabled`` switches an extension off: its table of the configuration stays
known, but nothing of it runs, is served, or stands in the conformance statement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import threading
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pydicom.dataset import Dataset

    from node.archive.base import LocalFile, Remote, Uploads
    from node.archive.filesystem import Archive
    from node.association.listener import Listener
    from node.association.operation import Operation
    from node.audit.audit_log import Audit
    from node.background import BackgroundService, SupervisedThread
    from node.children.decoder import Decoder
    from node.completeness import Evidence
    from node.conversion.datasets import SeriesFiles
    from node.conversion.job import ReferencedSeries
    from node.index.database.index import Index
    from node.index.database.reading import ReadIndex
    from node.index.nouns.converted import ConvertedFile, SeriesKey
    from node.index.nouns.records import Refused
    from node.index.work.jobs import Job, JobState
    from node.index.work.messages import LedgerEvent
    from node.lifecycle.fsck import Finding
    from node.metrics import Metrics
    from node.notify.channel import Channel
    from node.receive.ingest import Ingest
    from node.routing.destination import Destination as Receiver
    from node.routing.held import HeldWorker
    from node.selector import Selector
    from node.settings.model import AuditSettings, Destination, Oidc, Route, Settings, Verb
    from node.volume.model import Volume
    from node.volume.reasons import Exclusion, Refusal
    from node.web.credentials import FederatedIdentity
    from node.writers.options import WriteOptions

Place = str
"""Where an object is, as ``package.module:name``."""

Panel = Literal["Run", "Convert", "Exchange", "Look", "Maintain"]
"""A title of ``voxelnode --help``."""


@dataclass(frozen=True, slots=True)
class Command:
    """``voxelnode NAME``: a function with the parameters of a Typer command, or a ``typer.Typer`` with subcommands.

    Attributes
    ----------
    name : str
        ``GROUP NAME`` is a command of one that has commands.
    examples : tuple of str
        Whole command lines, which end the help of the command.
    before : str
        Command before which it is listed; empty: last.
    instead : mapping of str to str
        Options that it has not, but a program has that people know, and what does the same here.
    """

    name: str
    panel: Panel
    place: Place
    examples: tuple[str, ...] = ()
    before: str = ""
    instead: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """``[NAME]`` of the configuration, or ``[NAME.ANY]`` if `is_named`: a subclass of `SettingsSection`.

    The extension reads it by `Settings.table` (or `Settings.tables`).
    """

    name: str
    place: Place
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Router:
    """Routes of an ``APIRouter``: of REST (in the OpenAPI document), of DICOMweb, or of pages.

    Two extensions may have one, which is served once.

    Attributes
    ----------
    service : str
        Of DICOMweb: the name of the service, for the conformance statement.
    transactions : Place
        Of DICOMweb: a mapping of its functions to their `Transaction`, for the capabilities; empty: it is not in them.
    """

    kind: Literal["rest", "dicomweb", "pages"]
    place: Place
    service: str = ""
    transactions: Place = ""


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """A page in the menu.

    Attributes
    ----------
    before : str
        Path of the page before which it stands; empty: last.
    key : str
        Letter that opens the page behind ``g``; empty: none.
    badge : str
        Name of a number beside the label: `badge_counts` in `node/extensions/pages/rendering.py`.
    is_used : str
        Place of a function that is called with the services of the node and the index, and returns whether the page has
        something to show; empty: always.
    for_members : bool
        Whether accounts see it that see their projects only.
    """

    path: str
    label: str
    before: str = ""
    key: str = ""
    badge: str = ""
    is_used: Place = ""
    for_members: bool = False


ErrorPage = Callable[[int, str, str, str, str], str]
"""Takes the status of an error, its title, its detail, a remedy, and the path of the page before or an empty text;
returns HTML, for which nobody needs an account."""


@dataclass(frozen=True, slots=True)
class StudyLink:
    """A link on the pages of studies and series, such as to a viewer.

    Attributes
    ----------
    place : Place
        A function of the `Services` of HTTP and a Study Instance UID that returns the URL; empty: no link.
    """

    label: str
    place: Place


@dataclass(frozen=True, slots=True)
class Service:
    """A SOP class of PS3.6 for which the node is an SCP, beside its own.

    Attributes
    ----------
    verb : Verb
        What a peer needs in its `may`.
    """

    sop_class_uid: str
    verb: Verb


class Found(NamedTuple):
    """Whether all keys of a C-FIND are supported, and the data sets that answer it."""

    is_supported: bool
    answers: Iterator[Dataset]


Find = Callable[["Dataset", int, Callable[[], bool]], Found]
"""Answers a C-FIND: takes the identifier, the largest number of answers, and a function that says whether to stop. It
may raise what `node.index.search.finder` raises."""

Operate = Callable[["Operation"], None]
"""Serves another request, on the thread of the association: it sends the response."""

Respond = Callable[["Operation"], Iterator[Any]]
"""Yields what a handler of pynetdicom for a C-MOVE or C-GET yields."""


class Accepting(Protocol):
    """Something that accepts associations in place of the node's own acceptor."""

    thread: SupervisedThread

    def start(self, host: str, port: int) -> tuple[str, int]:
        """Bind and accept; return address and port. Raises OSError if the address cannot be bound."""

    def stop(self) -> None:
        """Accept nothing more. Associations go on until `node.association.admission.Associated` ends them."""


OpenAcceptor = Callable[["Listener"], Accepting]
"""Returns what accepts for a listener, or raises `UsageError` if it cannot do what the configuration demands."""


OpenHandlers = Callable[["Listener"], list[Any]]
"""Returns handlers for the events of pynetdicom, behind which is a listener that does not listen: `node.handlers`."""


class Listening(Protocol):
    """Something that peers send to, beside DICOM and HTTP."""

    thread: SupervisedThread

    def start(self) -> None:
        """Bind, accept, and log the port."""

    def stop(self) -> None:
        """Accept nothing more, and end what is under way."""


@dataclass(frozen=True, slots=True)
class Running:
    """What an extension runs in a node that receives.

    Attributes
    ----------
    services : sequence of BackgroundService
        Started before the node is ready, and stopped after it accepts no associations any more.
    listeners : mapping of str to Listening
        By the names under which the node logs and watches them.
    finds : mapping of SOP Class UID to Find
        What C-FIND answers on the presentation contexts of a `Service`.
    operations : mapping of (command field, SOP Class UID) to Operate
        What serves other requests there.
    responses : mapping of (command field, SOP Class UID) to Respond
        The same for retrieves behind an acceptor of pynetdicom: what its handlers yield.
    """

    services: Sequence[BackgroundService] = ()
    listeners: Mapping[str, Listening] = field(default_factory=dict)
    finds: Mapping[str, Find] = field(default_factory=dict)
    operations: Mapping[tuple[int, str], Operate] = field(default_factory=dict)
    responses: Mapping[tuple[int, str], Respond] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a node that an extension may use.

    `ingest` has the archive, the index and the clock. `on_refusal` lets people hear of what was refused, and must not
    block.
    """

    settings: Settings
    ingest: Ingest
    metrics: Metrics
    decoder: Decoder
    on_refusal: Callable[[Refused], None]
    audit: Audit | None = None


Action = Callable[..., Mapping[str, Any]]
"""Changes what people decide about, or asks for it; its arguments and what it returns are JSON values."""


@dataclass(frozen=True, slots=True)
class OpenedRoot:
    """The parts of an opened root, which a node has, and a command where none runs."""

    settings: Settings
    ingest: Ingest
    audit: Audit


@dataclass(frozen=True, slots=True)
class Key:
    """A key of [destinations.NAME] or [hooks.NAME] that says what there is, and the place of what it stands for.

    For acceptors it is the value of the key.
    """

    key: str
    place: Place


OpenReceiver = Callable[["Destination", bool], "Receiver"]
"""Opens a destination that takes instances one by one, such as a folder or a server. It takes a table
[destinations.NAME], and whether its route wants proof of what was taken; it returns what sends there, or raises
`UsageError` if a file that the table names cannot be used."""


@dataclass(frozen=True, slots=True)
class RouteParts:
    """What the worker of one destination of a route is given.

    Attributes
    ----------
    route_name : str
        Empty for what people send by hand.
    destination : str
        Name in [peers] or [destinations].
    selector : Selector or None
        What the route sends; None: all.
    """

    settings: Settings
    route_name: str
    route: Route
    destination: str
    selector: Selector | None
    archive: Archive
    index: Index
    metrics: Metrics
    audit: Audit


OpenChannel = Callable[["Settings", str, "Index | None"], "Channel"]
"""Opens what delivers the messages of a hook. It takes the name of the hook, and the index, None for test messages; it
raises `UsageError` if the hook cannot be used."""


class DestinationKind(Protocol):
    """Destinations of routes that do not take instances one by one, such as folders that follow the node.

    `[destinations.NAME]` has a key for each kind; the keys are those of the core (`Destination`).
    """

    def check(self, destination: Destination) -> None:
        """Raise `UsageError` if a destination cannot be used."""

    def events(self, route: Route) -> Collection[LedgerEvent]:
        """Return the events that such a destination of a route has messages about."""

    def worker(self, parts: RouteParts) -> HeldWorker:
        """Return the service that does what the messages to a destination of a route ask for."""


class Way(Protocol):
    """A way in which copies that leave lose what identifies people. It is pickled into the child that makes a copy."""

    @property
    def mark(self) -> str:
        """What the audit log says of it."""

    @property
    def reasons(self) -> Collection[str]:
        """Every reason of `Withheld` that the child may answer."""

    def load(self) -> None:
        """Import what the methods below need, once for many files."""

    def uid(self, uid: str) -> str:
        """Return the UID that a copy has in the place of that of an instance, a series or a study."""

    def read(self, path: Path) -> Dataset:
        """Read the whole data set of a file; raise `Withheld` if it cannot be."""

    def clean(self, ds: Dataset) -> Dataset:
        """Return the data set that may leave; raise `Withheld` if there is none."""

    def write(self, ds: Dataset, into: Path) -> int:
        """Write it as a DICOM file; return where the data set begins."""


class Ways(Protocol):
    """The ways that a configuration has, by the names that routes and downloads know."""

    def names(self, settings: Settings) -> list[str]:
        """Return the names of all."""

    def way(self, settings: Settings, name: str) -> Way:
        """Return one; raise `UsageError` if it cannot be used."""


@dataclass(frozen=True, slots=True)
class SignIn:
    """The state of one sign-in; the provider returns `state` and `nonce`."""

    state: str
    nonce: str
    code_verifier: str
    redirect_uri: str
    next_path: str


class IdentityProvider(Protocol):
    """Who says who people are. Thread-safe."""

    @property
    def end_session_url(self) -> str:
        """Its logout page, or an empty string."""

    def by_access_token(self, token: str) -> FederatedIdentity:
        """Return the identity in an access token; raise `SignInFailed` or `ProviderUnavailable`."""


class BegunSignIn(NamedTuple):
    """The address at the provider for the browser, and the value of its cookie."""

    url: str
    cookie: str


class SignIns(Protocol):
    """Sign-ins by an identity provider: a browser is sent there and returns with a code. Thread-safe."""

    provider: IdentityProvider

    def begin(self, redirect_uri: str, next_path: str) -> BegunSignIn:
        """Begin a sign-in."""

    def returned(self, cookie: str, state: str) -> SignIn:
        """Return the sign-in from which a browser returns; raise `SignInFailed` unless that browser began it."""

    def end(self, sign_in: SignIn, code: str) -> FederatedIdentity:
        """Return the identity of the user; raise `SignInFailed` or `ProviderUnavailable`."""


OpenSignIns = Callable[["Oidc"], SignIns]
"""Takes [web.oidc]; raises `UsageError` if the secret or the certificates cannot be read."""


class AuditCopy(Protocol):
    """Where each line of the audit log is sent as well. Thread-safe."""

    def send(self, line: str, at: str) -> None:
        """Send a line, written at an ISO 8601 time; never wait for the receiver, and never raise."""

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""


OpenAuditCopy = Callable[["AuditSettings"], AuditCopy]
"""Takes [audit], whose `syslog` is not empty; raises `UsageError` if it cannot be used."""


class Results(Protocol):
    """Stores what hooks leave for their jobs. Thread-safe."""

    def under_way(self, job_id: str) -> AbstractContextManager[threading.Event]:
        """Yield an event that is set if somebody cancels the job within the block."""

    def folder(self, job_id: str) -> Path:
        """Return the folder of a job, which may not exist."""

    def empty_folder(self, job_id: str) -> Path:
        """Return the folder of a job, empty."""

    def new_file(self, job: Job, name: str) -> AbstractContextManager[IO[bytes]]:
        """Yield a file of a job to write, which is there once the block ends."""

    def finish(
        self, job_id: str, content: object = None, detail: str | None = None, wait_seconds: float = 60.0
    ) -> None:
        """Store the results of a job from the files in its folder, and let it succeed; `content` is the manifest."""

    def end(self, job_id: str, state: JobState, detail: str | None = None) -> None:
        """End a job that is open, and remove its files."""

    def sweep(self) -> None:
        """Remove the folders of jobs that have ended."""

    def services(self, settings: Settings) -> Sequence[BackgroundService]:
        """Return what a node runs for jobs."""

    def close(self) -> None:
        """End what works on results."""


class ResultsKind(Protocol):
    """What becomes of the results of hooks."""

    def opened(self, index: Index, ingest: Ingest, metrics: Metrics) -> Results:
        """Return what stores them in an opened root."""

    def left_in(self, folder: Path, content: object, hook: str) -> list[dict[str, Any]]:
        """Return what would be made of the files in a folder, each with `file`, `kind` and `description`."""


class TriedStore(NamedTuple):
    """The place of a store, what it does not do as it should, and what the node does itself because the store does not.

    None: nothing.
    """

    place: str
    problem: str | None
    warning: str | None


class StoreKind(Protocol):
    """The object store that `[storage] url` names.

    Every method but `tried` and `findings` may raise `node.archive.base.StoreAway`, and each `UsageError` if the
    configuration cannot be used.
    """

    def opened(self, settings: Settings, archive: Archive, index: Index, *, new_index: bool) -> Remote:
        """Return the store of a root that this process has opened; `new_index`: the index has no rows yet."""

    def uploads(self, settings: Settings, archive: Archive, index: Index, metrics: Metrics) -> Uploads:
        """Return the service that moves files to the store of an opened root."""

    def files(self, settings: Settings) -> AbstractContextManager[LocalFile]:
        """Yield what gives the files of the archive to a process that does not hold its lock."""

    def findings(
        self, settings: Settings, index: ReadIndex, losers: set[str], *, digests: bool, serving: bool
    ) -> Iterator[Finding]:
        """Yield the differences between the index and the objects; see `node.lifecycle.fsck.examine`.

        `losers`: keys of files that lost a conflict.
        """

    def tried(self, settings: Settings) -> TriedStore:
        """Try what the archive needs of the store."""


class Membership(Protocol):
    """This host among those that share its index: it says that it lives, and hears of the others.

    Attributes
    ----------
    services : sequence of BackgroundService
        What runs from `start` to `leave`.
    beside : sequence of BackgroundService
        What the node starts and stops with its own services.
    """

    services: Sequence[BackgroundService]
    beside: Sequence[BackgroundService]

    def start(self) -> None:
        """Join the other hosts. From here on, this one does only what it has the `node.index.engine.turn.Turn` for."""

    def when_asked_to_drain(self, act: Callable[[], None]) -> None:
        """Call `act` when somebody asks this host to drain, or at once if somebody has."""

    def begin_to_drain(self) -> None:
        """Let the others know that this host drains; does not wait for the server."""

    def hand_over(self, services: Mapping[str, BackgroundService]) -> None:
        """Take no turn any more, and give back each that this host has once the service that works with it ended."""

    def leave(self, left_behind: int) -> None:
        """Give back what this host still has; `left_behind`: instances that only its disk has."""


@dataclass(frozen=True, slots=True)
class HostParts:
    """What makes a host one of several.

    Attributes
    ----------
    subscribers : sequence of str
        The hooks and the destinations of its configuration, as in the ledger.
    on_cut_off : callable
        Called again and again while the server does not answer, before another host may take over what this one does.
    not_ready : callable
        Returns why this host is not ready, by role.
    """

    settings: Settings
    index: Index
    ingest: Ingest
    subscribers: Sequence[str]
    on_cut_off: Callable[[], None]
    not_ready: Callable[[], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class IndexServer:
    """Servers of PostgreSQL that can have the index, which several hosts may then share.

    Attributes
    ----------
    backend : str
        The module that has the functions of a `node.index.engine.backend.ServerBackend`.
    membership : Place
        A function of `HostParts` that returns the `Membership` of a host.
    """

    backend: str
    membership: Place


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """Instances that become files of their own, such as spectra.

    Attributes
    ----------
    sop_classes : frozenset of str
        SOP Class UIDs of all instances that may be of this kind; one that ends with a dot stands for all below it.
    place : Place
        A function without parameters that returns the `Objects` of one series, in the child process of a conversion.
    """

    sop_classes: frozenset[str]
    place: Place

    def may_be(self, sop_class_uid: str) -> bool:
        """Return whether instances of a SOP class may be of this kind."""
        return sop_class_uid in self.sop_classes or any(
            root.endswith(".") and sop_class_uid.startswith(root) for root in self.sop_classes
        )


@dataclass(frozen=True, slots=True)
class Output:
    """Where and how the files of a series are written.

    Attributes
    ----------
    stack : int
        Number of the first of these files; each further output has the next number.
    name : str
        What the names of all files begin with; empty: as in a node, without a name.
    fields : mapping
        What every sidecar of the series has.
    """

    folder: Path
    stack: int
    name: str
    fields: Mapping[str, Any]
    options: WriteOptions


class FileSource(NamedTuple):
    """An instance of which a file has frames: the number of its stack, its SOP Instance UID, how many frames."""

    stack: int
    sop_instance_uid: str
    frames: int


class WrittenObjects(NamedTuple):
    """Files that were written, and all their sources."""

    files: Sequence[ConvertedFile]
    sources: Sequence[FileSource]


class Objects:
    """The instances of one kind in a series. Each that was taken is in a file, in an exclusion or in a refusal.

    Define only what the kind has: files that it writes itself, or volumes that are written as those of images are.
    """

    def __init__(self) -> None:
        self.exclusions: list[Exclusion] = []
        self.refusals: list[Refusal] = []

    def take(self, ds: Dataset) -> bool:
        """Return whether an instance is of this kind, and keep what its file needs; nothing else reads it then.

        Raises
        ------
        ConversionRefused
            It is of this kind, but cannot be used: it is excluded for this reason.
        """
        raise NotImplementedError

    @property
    def references(self) -> Collection[SeriesKey]:
        """The other series that are needed, after all instances were read."""
        return ()

    def read_referenced(self, series: ReferencedSeries, files: SeriesFiles) -> None:
        """Keep what is needed of one of them; `files` are its data sets, none if it is not here."""

    def evidence(self) -> Sequence[Evidence]:
        """Return what speaks against completeness, after all instances were read."""
        return ()

    def volumes(self, stack: int) -> Iterator[Volume]:
        """Yield volumes one by one; `stack` is the number of the first stack, each further one has the next."""
        return iter(())

    def write(self, output: Output) -> WrittenObjects:
        """Write the other files."""
        return WrittenObjects((), ())


@dataclass(frozen=True, slots=True)
class Statement:
    """Lines of the conformance statement.

    Attributes
    ----------
    sections : mapping of str to Place
        By the title of a section of `node/extensions/conformance/template.md` that says "Not supported.": the text that
        takes its place.
    tables : Place
        A function of the settings that returns the tables of these texts by name; empty: there are none.
    """

    sections: Mapping[str, Place]
    tables: Place = ""


class Port(NamedTuple):
    """The key of a port in the configuration, and the host and number that it has."""

    key: str
    host: str
    number: int


class Extension:
    """An extension. Everything has a default: define only what it adds."""

    name: str
    """In ``[extensions] disabled``, and in messages."""

    commands: Sequence[Command] = ()
    tables: Sequence[Table] = ()
    routers: Sequence[Router] = ()
    menu: Sequence[MenuEntry] = ()
    links: Sequence[StudyLink] = ()
    error_page: Place = ""
    """An `ErrorPage`. Where none is, routers of pages are not served, and people are answered as programs are."""
    services: Sequence[Service] = ()
    asks: Sequence[str] = ()
    """UIDs of the SOP classes that the node uses as SCU, for the conformance statement."""
    destinations: Sequence[Key] = ()
    """Keys of [destinations.NAME] that stand for a `DestinationKind`."""
    acceptors: Sequence[Key] = ()
    """Values of [dicom] acceptor, each of which stands for an `OpenAcceptor`."""
    handlers: Place = ""
    """An `OpenHandlers`."""
    receivers: Sequence[Key] = ()
    """Keys of [destinations.NAME] that stand for an `OpenReceiver`."""
    channels: Sequence[Key] = ()
    """Keys of [hooks.NAME], each of which stands for an `OpenChannel`."""
    ways: Place = ""
    """`Ways` to take identities out of copies."""
    sign_ins: Place = ""
    """An `OpenSignIns`, for [web.oidc]."""
    audit_copy: Place = ""
    """An `OpenAuditCopy`, for [audit] syslog."""
    results: Place = ""
    """A `ResultsKind`, for hooks with `results`."""
    objects: Sequence[ObjectKind] = ()
    store: Place = ""
    """A `StoreKind`."""
    server: IndexServer | None = None
    statement: Statement = Statement({})
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

    def actions(self, root: OpenedRoot) -> Mapping[str, Action]:
        """Return what commands and pages do on a root, by names that are free (`node.control.actions`)."""
        return {}

    def ports(self, settings: Settings) -> Iterator[Port]:
        """Yield the port of each listener, which no other listener may have."""
        return iter(())

    def run(self, node: Parts) -> Running:
        """Return what runs in a node that receives; nothing of it has been started."""
        return Running()
