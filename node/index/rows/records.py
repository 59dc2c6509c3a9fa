"""Plain records that the index accepts and returns."""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from node.completeness import Completeness, Expectation, Findings
from node.dicom.attributes import InstanceAttributes
from node.dicom.header import ReadHead
from node.errors import UsageError, kind_of
from node.index.rows.converted import ClaimedInstance, ConvertedFile, SeriesKey
from node.settings.core import OverwritePolicy

if TYPE_CHECKING:
    from node.index.rows.states import Kind

SET_ASIDE = "instance-bytes", "instance-versions"
"""Kinds of conflicts of a version that was received and does not count."""

FinalKind = Literal["series-converted", "series-refused", "series-failed", "series-unchanged"]
"""The events that end a conversion, one for each conversion."""

ReceivedPolicy = OverwritePolicy | Literal["accept"]
"""The rule for other bytes under a known SOP Instance UID; ``accept`` is what a person decides for what is received."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The file of an instance and its origin; `bytes` and `sha256` are those of the data set as received."""

    key: str
    quarantine_key: str  # the key for the file if the index already has other bytes for its UID
    bytes: int
    sha256: str
    data_set_offset: int
    transfer_syntax_uid: str
    source: str
    calling_ae_title: str
    called_ae_title: str
    peer: str
    received_at: dt.datetime
    place: str | None = None  # SPOOL: it is to be moved to the object store


@dataclass(frozen=True, slots=True)
class Received:
    """An instance to be indexed; its series is due `quiet_seconds` later unless more is to be waited for.

    `begun`: the place of the begin of its association; see `node.quiet.is_later`. `association`: its name; empty: there
    is none whose end is recorded. `head`: for its document; None: it gets that later.
    """

    attributes: InstanceAttributes
    file: StoredFile
    quiet_seconds: float
    overwrite_policy: ReceivedPolicy = "never"
    begun: str = ""
    head: ReadHead | None = None
    association: str = ""


@dataclass(frozen=True, slots=True)
class AssociationEnd:
    """How an association ended that has brought instances.

    `outcome`: ``released``, or how else it ended; one of `node.index.rules.series.association_ends.BY_NODE` if the
        node has ended it.
    `brought`: how many instances of each series came, each UID once.
    `last`: the series of the last instance.
    `grace_seconds`: wait of a series after its last instance if the association was not released.
    `is_agreed`: the sender answered the release that the node asked for, which then counts as released.
    `is_cut`: it ended in the middle of an instance.
    `releases`: false if it is known that the sender never does: how it ends says nothing.
    `ending_at`: when the node began to end it: a series that was quiet by then was over. None: at `ended_at`.
    `begun`, `ended`: the places of its begin and end; see `node.quiet.is_later`.
    """

    association: str
    calling_ae_title: str
    outcome: str
    ended_at: dt.datetime
    brought: Mapping[SeriesKey, int]
    last: SeriesKey
    grace_seconds: float
    is_agreed: bool = False
    is_cut: bool = False
    releases: bool = True
    ending_at: dt.datetime | None = None
    begun: str = ""
    ended: str = ""


class Outcome(Enum):
    """The outcome of adding an instance. Whatever the outcome, the instance may be acknowledged after the commit."""

    STORED = auto()
    ALREADY_THERE = auto()  # same SOP Instance UID, same bytes: nothing written
    OTHER_BYTES = auto()  # same SOP Instance UID, other bytes: the first is served, the second is kept in quarantine
    KNOWN_VERSION = auto()  # the bytes of a version that was set aside before: nothing written
    REPLACED = auto()  # same SOP Instance UID, other bytes: the second is served, the first is kept in quarantine


NOT_CURRENT_OUTCOMES = frozenset({Outcome.OTHER_BYTES, Outcome.KNOWN_VERSION})
"""Another version of the instance is current; these bytes are kept beside it."""


class Flaw(Enum):
    """Why a kept file cannot stand for the bytes that come again."""

    MISSING = "is missing"
    ASIDE = "is in quarantine"  # whole, and missing where the row says
    DAMAGED = "is damaged"
    AWAY = "cannot be looked up in the object store, or on the disk of another host"
    UNREADABLE = "cannot be read"  # it may be whole: it stays where it is
    CUT = "lacks pixels"  # as it was received: bytes that are not cut take its place


@dataclass(frozen=True, slots=True)
class Indexed:
    """An outcome, with the archive key of a file that no row of `images` names, to be handled after the commit."""

    outcome: Outcome
    remove: str | None = None  # another file has the same bytes: delete this one
    repeats: str | None = None  # that other file
    quarantine: str | None = None  # another file is served for this SOP Instance UID: move this one
    restored: str | None = None  # the received file took the place of one that is not whole: how it differs, in words
    superseded: tuple[str, ...] = ()  # the digests of the versions whose place it took


RefusedLevel = Literal["connection", "association", "context", "instance", "retrieve", "commitment", "hl7"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal with its reason and its remedy, without patient data.

    Refusals whose reasons differ only in measures, such as a number of bytes, are counted as one.
    """

    what: RefusedLevel
    rule: str
    reason: str = field(compare=False)
    remedy: str = field(compare=False)
    peer: str = ""  # address, without the port
    calling_ae_title: str = ""
    called_ae_title: str = ""
    offered: str = ""
    kind: str = field(init=False, repr=False)  # the reason without measures

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", kind_of(self.reason))


@dataclass(frozen=True, slots=True)
class CountedRefusal:
    """The number of equal refusals between two moments; `refused` is the last of them."""

    refused: Refused
    count: int
    first_at: dt.datetime
    last_at: dt.datetime


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """What is here of a series to which another one refers.

    `key`: as it is referred to; the study may be empty.
    `revision`: 0 if it was not converted yet, or is not here.
    `is_open`: it awaits the outcome of a conversion.
    `is_of_patient`: it is of the same patient as the series that refers to it.
    `instances`: empty if the series is not here.
    """

    key: SeriesKey
    revision: int = 0
    is_open: bool = False
    is_of_patient: bool = False
    instances: tuple[ClaimedInstance, ...] = ()


@dataclass(frozen=True, slots=True)
class CurrentConversion:
    """The current conversion of a claimed series: the digest of its input, and its files as (path, bytes).

    `files` are those that no object store has.
    `has_volumes`: not all of them are files of reports. `holds_lost`: it was made of instances that are lost now.
    """

    input_sha256: str | None
    files: tuple[tuple[str, int], ...]
    has_volumes: bool
    holds_lost: bool = False


@dataclass(frozen=True, slots=True)
class SupersededConversion:
    """A conversion whose files may be removed; `folders` are relative to the root."""

    id: int
    series_instance_uid: str
    revision: int
    folders: tuple[str, ...]


OWED_SIDECARS = "sidecars"
"""What a commit notes that owes sidecars."""


@dataclass(frozen=True, slots=True)
class OwedSidecars:
    """A current conversion whose sidecars are to tell another verdict.

    `number`: how often it has changed. `volumes`: paths of files that are no sidecars, relative to the root.
    """

    conversion_id: int
    number: int
    completeness: Completeness
    volumes: frozenset[str]

    @property
    def folder(self) -> str:
        """The folder of its files, relative to the root."""
        return next(iter(self.volumes)).rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class ClaimedSeries:
    """A series claimed by this process; recording the outcome requires the same `claim`."""

    id: int
    claim: str
    study_instance_uid: str
    series_instance_uid: str
    revision: int  # of the conversion to be made
    instances: tuple[ClaimedInstance, ...]
    expectation: Expectation
    current: CurrentConversion | None = None
    referenced: tuple[FoundSeries, ...] = ()  # as far as the last conversion knew them
    transfer_syntax_uids: frozenset[str] = frozenset()

    @property
    def key(self) -> SeriesKey:
        """Both UIDs of the series."""
        return self.study_instance_uid, self.series_instance_uid


@dataclass(frozen=True, slots=True)
class RevisionFile:
    """A file of a revision, whose `key` is its path relative to the root.

    `place` and `holder` are those of the file in `RevisionFileRow`. Without an object store there are none, and no
    digest is known of what lies beside a volume: it is empty then.
    """

    key: str
    bytes: int
    sha256: str = ""
    place: str | None = None
    holder: str | None = None

    @property
    def data_set_offset(self) -> int:
        """Where the content begins in the file, as `node.archive.base.ArchivedFile` has it."""
        return 0


@dataclass(frozen=True, slots=True)
class SeriesOutcome:
    """The result of one conversion.

    `sources` are (stack, SOP Instance UID, frames), `exclusions` (SOP Instance UID, frames, reason, detail), `failures`
    (stack or None, reason, detail), `references` (series, revision that was used). `revision_files` are all files of
    the revision, if they are to be moved to an object store.
    """

    state: str
    converter: str
    options: Mapping[str, Any]
    seconds: float
    files: Sequence[ConvertedFile] = ()
    sources: Sequence[tuple[int, str, int]] = ()
    exclusions: Sequence[tuple[str, int, str, str]] = ()
    failures: Sequence[tuple[int | None, str, str]] = ()
    completeness: Completeness | None = None
    findings: Findings = field(default_factory=Findings)
    input_sha256: str | None = None
    error: str | None = None
    references: Sequence[tuple[SeriesKey, int]] = ()
    revision_files: Sequence[RevisionFile] = ()


Level = Literal["study", "series", "instance"]
UIDS: Mapping[Level, str] = {one: f"{'sop' if one == 'instance' else one}_instance_uid" for one in get_args(Level)}
"""The name of the UID of an object by its level."""


@dataclass(frozen=True, slots=True)
class DeletionPlan:
    """What a deletion would remove; Patient ID, name and Accession Number are only for the audit log."""

    level: Level
    uid: str
    study_instance_uid: str
    patient_id: str
    patient_name: str
    accession_number: str
    series: int
    instances: int
    bytes: int


def removes_instances(paths: Collection[str]) -> bool:
    """Return whether a deletion that names these paths removes instances; else it only removes volumes."""
    return any(path.startswith("objects/") for path in paths)


@dataclass(frozen=True, slots=True)
class Deletion:
    """A committed deletion; `paths` are the files and folders to be removed, relative to the root.

    `listed`: how far the ledger of its host was, which has the entries of all that it removed. `went_to_trash`: its
    instances are in the trash, or were before it was emptied. `instances`: how many it removed; 0 for one that is read
    back. `versions`: digests of those in conflicts that went with them, as far as the UIDs of the deletion do not tell.
    """

    id: int
    paths: tuple[str, ...]
    level: Level
    uid: str
    listed: str | None
    went_to_trash: bool = False
    instances: int = 0
    versions: tuple[str, ...] = ()


class NotInTrash(UsageError):
    """Nothing in the trash has this number: `voxelnode trash` lists all."""


@dataclass(frozen=True, slots=True)
class StoredStudy:
    """A study as retention sees it; `is_finished`: each series is converted or contains no images.

    `is_kept`: a rule selects one of its series, and the study is never deleted. `is_back`: it came back from the trash
    after its last instance was received, and counts as received then. `came`: how many instances have come, and the
    numbers of the events before the last one, and before it was brought back.
    """

    study_instance_uid: str
    last_received_at: dt.datetime
    is_finished: bool
    calling_ae_titles: frozenset[str]
    is_kept: bool = False
    is_back: bool = False
    came: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class InstanceFile:
    """The file that a row of images names; `bytes` and `sha256` are of the data set, which begins at the offset."""

    sop_instance_uid: str
    key: str
    data_set_offset: int
    bytes: int
    sha256: str
    file_missing: bool
    place: str | None = None  # see `ImageRow`
    holder: str | None = None


class Role(IntEnum):
    """The permissions of an account; each role includes the lower ones."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class ListedToken:
    """A token as its owner and administrators see it. `role` is None if it is that of the account."""

    id: int
    label: str
    role: Role | None
    routes: tuple[str, ...]
    project: str | None
    created_at: dt.datetime
    expires_at: dt.datetime | None
    used_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class ListedAccount:
    """An account as shown to an administrator."""

    name: str
    role: Role
    has_password: bool
    has_factor: bool
    created_at: dt.datetime
    tokens: tuple[ListedToken, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """A link: what it shows, whether files may be downloaded, and how it was used; `series` is empty for a study.

    `deidentification`: the table [deidentify.NAME] by which everything that it shows is made; None: it shows what was
    received.
    """

    id: int
    study: str
    series: str
    may_download: bool
    deidentification: str | None
    made_by: str
    made_at: dt.datetime
    expires_at: dt.datetime
    uses: int
    used_at: dt.datetime | None


class KnownShares(Protocol):
    """The links of an index."""

    def by_token(self, sha256: str, now: dt.datetime) -> Share | None:
        """Return the link of a token, or None if it is unknown, revoked or over."""


@dataclass(frozen=True, slots=True)
class Client:
    """Where a session was opened from: an address, and what the browser says it is."""

    address: str = ""
    agent: str = ""


NO_CLIENT = Client()


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A session as the owner of its account sees it."""

    id: int
    client: Client
    created_at: dt.datetime
    expires_at: dt.datetime
    used_at: dt.datetime | None


SeriesProblem = tuple[SeriesKey, str]
"""A series and its ``problem``."""


class Lane(NamedTuple):
    """Where work waits: at a hook, a destination of a route, a peer, the AE title of a requestor, or an account.

    `name`: of the hook, the route, the peer, or the AE title, or of the account. The route of what people send by hand
        has an empty name.
    `destination`: of a route. Of a download, the host that makes it, if several share the index. Else empty.
    """

    kind: "Kind"
    name: str
    destination: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}" + (f"/{self.destination}" if self.kind == "route" else "")
