"""The tables of the core: of this host, and of the flow.

[dicom] and [peers] stand by themselves, because extensions add the services that a peer may use, and [convert] does,
because child processes read it without the others.
"""

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from socket import gethostname
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qsl

from pydantic import BeforeValidator, Field, StringConstraints

from node.errors import UsageError
from node.runtime.network import is_loopback
from node.selector import compile_selector
from node.selector.fields import FIELDS
from node.settings.section import Days, HookName, Host, Hours, PeerTitle, Seconds, SettingsSection


def _compilable(where: Any) -> Any:
    """Return the text or the table of a selector, or raise ValueError if it cannot be compiled."""
    if isinstance(where, str | Mapping):
        try:
            compile_selector(where)
        except UsageError as error:
            raise ValueError(str(error)) from error
    return where


Where = Annotated[str | dict[str, Any], BeforeValidator(_compilable)]
"""A selector: an expression or a table (docs/select.md)."""


def _of_volumes(where: Where | None) -> str:
    """Return the fields of a selector that only a series with a volume has."""
    fields = compile_selector(where).fields if where is not None else frozenset[str]()
    return ", ".join(sorted(name for name in fields if FIELDS[name].group == "volume"))


OverwritePolicy = Literal["never", "replace", "keep_both"]
Acknowledge = Literal["local", "index", "object"]


class Storage(SettingsSection):
    """[storage]: where the archive, the index and the volumes are."""

    root: Path = Field(Path("voxelnode-data"), description="Folder of the archive, the index and the volumes.")
    reserve_bytes: int = Field(
        2_000_000_000,
        ge=0,
        description="Free disk space below which C-STORE gets 0xA700 and no conversion begins; below twice as much, "
        "no association.",
    )
    overwrite_policy: OverwritePolicy = Field(
        "never", description="Whether other bytes with a stored UID replace it; never: they go to quarantine"
    )
    conflict_answer: Literal["success", "warning"] = Field(
        "success",
        description="Answer for an instance that does not become the current version; warning is 0xB000 in C-STORE "
        "and 202 in STOW-RS",
    )
    any_uids: bool = Field(
        False, description="Accept UIDs that are not digits and dots (PS3.5 9.1), which are refused (0xC000) otherwise"
    )
    journal_bytes: int = Field(
        1_073_741_824,
        ge=16_777_216,
        le=68_719_476_736,
        description="Largest size of the journal; when it is full, senders wait, and get 0xA700 after 10 s.",
    )

    scrub_days: float = Field(
        30.0,
        ge=0,
        le=3650,
        description="Every file of the archive is read and compared with its SHA-256 once in this time; 0: never.",
    )

    names: str | None = Field(
        None,
        max_length=200,
        description='Template of a tree of links by name, such as "{patient_name}/{series_description}" '
        "(docs/names.md).",
    )
    url: str | None = Field(
        None,
        description="Object store of instances and volumes, s3://BUCKET/PREFIX (extra `s3`) or file:///FOLDER "
        "(docs/object-store.md).",
    )

    @property
    def low_bytes(self) -> int:
        """Free space below which new associations are rejected, so that open ones can finish above the reserve."""
        return 2 * self.reserve_bytes


class JournalSettings(SettingsSection):
    """[journal]: when an instance is acknowledged, by C-STORE and STOW-RS."""

    acknowledge: Acknowledge | None = Field(
        None,
        description="What success waits for: the journal of this host, the row in the index, or the object store "
        "(docs/journal.md); unset: index if hosts share index and store, else local",
    )
    acknowledge_seconds: Seconds = Field(
        20, description="Longest wait for index or store before the answer is 0xA700; senders must wait longer."
    )


class IndexSettings(SettingsSection):
    """[index]: the database of the index."""

    url: str | None = Field(
        None,
        description='PostgreSQL, "postgresql://user@host/name" (extra `cluster`), without a password; unset: '
        "index.sqlite in the root.",
    )

    def _mistakes(self) -> Iterator[str]:
        if self.url is None:
            return
        if not self.url.startswith(("postgresql://", "postgresql+psycopg://")):
            yield "url must begin with postgresql:// or postgresql+psycopg://"
            return
        # By hand: `urlsplit` takes no list of hosts in which one is an IPv6 address.
        place, _, query = self.url.partition("://")[2].partition("?")
        user = place.partition("/")[0].rpartition("@")[0]
        parameters = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
        if twice := sorted(name for name in set(parameters) if parameters.count(name) > 1):
            yield f"url has {', '.join(twice)} twice: several servers are postgresql://user@host1:port1,host2:port2/name"
        if ":" in user or any(name.endswith("password") for name in parameters):
            yield "url has a password, which this file and messages would show: use PGPASSWORD or a password file"


Role = Literal["receive", "convert", "web"]
HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")


class ClusterSettings(SettingsSection):
    """[cluster]: this host among those that share an index in PostgreSQL."""

    host: str | None = Field(
        None, description="Name of this host, unique in the index; unset: the name of the machine."
    )
    roles: tuple[Role, ...] = Field(
        ("receive", "convert", "web"),
        min_length=1,
        description="What this host does: DICOM, hooks, routes and retention; conversions; HTTP",
    )
    lease_seconds: float = Field(
        120.0, ge=4, le=3600, description="Time after which other hosts take over the work of a silent one."
    )
    announce_seconds: float = Field(
        0.0, ge=0, le=300, description="Time for which a stopping host still accepts associations, while /readyz fails."
    )
    finish_seconds: float = Field(
        10.0,
        ge=0,
        le=300,
        description="Time after that for open associations; then each ends after its current instance.",
    )

    @property
    def name(self) -> str:
        """The name of this host."""
        return self.host or gethostname()

    def _mistakes(self) -> Iterator[str]:
        if self.host is not None and HOST_NAME.fullmatch(self.host) is None:
            yield "host must have 1 to 63 letters, digits, dots and hyphens, and begin with a letter or a digit"


QuietTime = Seconds | Literal["auto"]


class SeriesSettings(SettingsSection):
    """[series]: when a series is quiet, and is therefore converted."""

    quiet_seconds: QuietTime = Field(
        60.0,
        description='Time without a new instance after which a series is converted; "auto": learnt from the sender.',
    )
    quiet_seconds_by_calling_ae_title: dict[str, QuietTime] = Field(
        {}, description='quiet_seconds for single senders, such as { SLOWPACS = 300, CT1 = "auto" }.'
    )
    aborted_grace_seconds: Seconds = Field(
        300, description="The same after an association that was not released: the sender may reconnect."
    )
    force_complete_after_seconds: Seconds = Field(
        5400, description="Time after the first instance at which a series is converted even if more arrive."
    )
    study_quiet_seconds: Seconds = Field(900, description="Time after the last conversion at which a study is quiet.")


class RetentionSettings(SettingsSection):
    """[retention]: automatic deletion of whole studies, by default of none, and the trash."""

    days: Days | None = Field(
        None, description="Days without a new instance after which a study is deleted with its volumes; unset: never."
    )
    days_by_calling_ae_title: dict[str, Days | Literal["never"]] = Field(
        {}, description='days for single senders, such as { CT1 = 30, RESEARCH = "never" }.'
    )
    maximum_studies: int | None = Field(
        None, ge=1, description="Most studies to keep; those without new instances for longest are deleted first."
    )
    only_converted: bool = Field(True, description="Keep a study while any of its series waits, was refused or failed.")
    keep_where: Where | None = Field(
        None, description='Series whose studies are never deleted, such as { modality = "MR" } (docs/select.md).'
    )
    maximum_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Largest share of all studies that one pass deletes; more waits for `voxelnode retention confirm`.",
    )
    dry_run: bool = Field(False, description="Only log what would be deleted.")
    trash_days: float = Field(7, ge=0, description="Days in which a deletion can be undone; 0: none.")
    trash_gives_way: bool = Field(
        False, description="Empty the trash before its time if the disk is short of room, the oldest deletions first."
    )

    @property
    def is_by_sender(self) -> bool:
        """Whether it matters who sent a study."""
        return bool(self.days_by_calling_ae_title)

    @property
    def is_active(self) -> bool:
        """Whether any rule may delete a study."""
        return self.days is not None or bool(self.days_by_calling_ae_title) or self.maximum_studies is not None


class Web(SettingsSection):
    """[web]: pages, REST and DICOMweb over HTTP."""

    enabled: bool = Field(True, description="Serve HTTP.")
    host: Host = Field("127.0.0.1", description="Address to listen on; beyond this machine, requests need an account.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0: any free port.")
    process: bool = Field(
        True,
        description="Serve HTTP in a process of its own, so that pages and senders do not wait for each other; false "
        "takes less memory.",
    )
    authentication: Literal["auto", "always", "never"] = Field(
        "auto", description="Whether requests need an account; auto: unless only this machine can reach the node"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description='Host names by which clients reach the node, such as ["pacs.example.org"], beside addresses.'
    )
    public_url: Annotated[str, StringConstraints(pattern=r"^(https?://[^/?#@\s]+(/[^?#\s]*[^/?#\s])?)?$")] = Field(
        "",
        description='Start of every URL that is handed out, such as "https://pacs.example.org"; unset: that of the '
        "request.",
    )
    cors_origins: tuple[Annotated[str, StringConstraints(pattern=r"^https?://[^/*]+$")], ...] = Field(
        (),
        description="Other web sites whose scripts may send requests with a token, such as "
        '["https://viewer.example.org"].',
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description='Reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted, such as ["127.0.0.1"].',
    )
    second_factor: Literal["", "admin", "all"] = Field(
        "",
        description="whose passwords need a second factor (authenticator app): administrators or all; empty: those "
        "who have set one up",
    )
    session_hours: float = Field(12, gt=0, le=720, description="Hours without a request after which a login ends.")
    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate chain; if set, only HTTPS is served."
    )
    tls_key: Path | None = Field(
        None, description="PEM file of its private key; unset: in the file of the certificate."
    )
    hook_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="addresses of this machine, or of its link (127.0.0.0/8, 169.254.0.0/16, ...), that hooks and "
        'peers which administrators add may have, such as ["127.0.0.1"]; those of the configuration may have any',
    )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach us, judging by the configuration."""
        return is_loopback(self.host) and not self.trusted_proxies

    @property
    def needs_account(self) -> bool:
        """Whether requests need an account."""
        return self.authentication == "always" or (self.authentication == "auto" and not self.is_local)


HookEvent = Literal[
    "instance-stored",
    "series-quiet",
    "volume-written",
    "volume-superseded",
    "verdict-changed",
    "series-failed",
    "study-quiet",
]

RESULT_EVENTS: tuple[HookEvent, ...] = ("series-quiet", "volume-written", "study-quiet")
"""Events to which a hook can give results."""

VOLUME_EVENTS: tuple[HookEvent, ...] = ("volume-written", "volume-superseded", "verdict-changed", "study-quiet")
"""Events of which there is a volume, or may be one."""


class HookSettings(SettingsSection):
    """[hooks.NAME]: a receiver of messages about events, after their commit; its kind says who that is."""

    is_here: ClassVar[bool] = True
    """The receiver runs on this machine: messages name files, and it leaves its results in a folder at once."""

    kind: str = Field(description="What the receiver is: webhook, command, plugin.", examples=["webhook"])
    on: tuple[HookEvent, ...] = Field(min_length=1, description="Events", examples=[["volume-written"]])
    calling_ae_titles: tuple[PeerTitle, ...] | None = Field(
        None, description="Only events of these senders; unset: all."
    )
    where: Where | None = Field(
        None, description='Only series that fit, such as { modality = "CT", slices = ">=50" } (docs/select.md).'
    )
    include_patient: bool = Field(False, description="Include ID, name, birth date and sex of the patient in messages.")
    results: bool = Field(
        False, description="Accept results (masks, reports, documents) for each message (docs/results.md)."
    )
    job_seconds: Seconds = Field(86_400, description="Time limit of a job from the 202 of a webhook to its results.")
    timeout_seconds: Seconds = Field(30, description="Time limit of one attempt.")
    attempts: int = Field(12, ge=1, le=1000, description="Attempts before a message is given up.")

    @property
    def receiver(self) -> str:
        """Who receives the messages, for people."""
        return self.kind

    @property
    def host(self) -> str:
        """The host that messages go to by HTTP; empty: they do not."""
        return ""

    def _mistakes(self) -> Iterator[str]:
        if self.results and (other := [event for event in self.on if event not in RESULT_EVENTS]):
            yield f"results come from {', '.join(RESULT_EVENTS)}, not from {', '.join(other)}"
        of_volumes = _of_volumes(self.where)
        if of_volumes and (early := [event for event in self.on if event not in VOLUME_EVENTS]):
            yield (
                f"where uses {of_volumes}, but there is no volume at {', '.join(early)}: use instances or "
                "frames there, or only the events volume-written, volume-superseded, verdict-changed and study-quiet"
            )


RouteEvent = Literal["instance-stored", "series-quiet", "series-complete", "volume-written", "study-quiet"]


Layout = Annotated[
    Literal["names", "archive"],
    Field(description="Names of files: PATIENT/STUDY/SERIES/INSTANCE, or those of the archive, which name nobody"),
]


class DestinationSettings(SettingsSection):
    """[destinations.NAME]: a receiver of routes that is not in [peers]; its kind says what it is."""

    takes_instances: ClassVar[bool] = True
    """Whether it is sent instances, by a route or by hand; otherwise it follows the node in its own way."""

    kind: str = Field(description="What the destination is: dicomweb, s3, folder, bids.", examples=["dicomweb"])
    timeout_seconds: Seconds = Field(60, description="Longest wait for a server.")

    @property
    def folder_of(self) -> Path | None:
        """The folder that must be there before anything is written."""
        return None

    @property
    def address(self) -> str:
        """The address of a server that might be this node; empty: there is none."""
        return ""


class Route(SettingsSection):
    """[routes.NAME]: copies of instances that are sent on to other nodes, after their commit."""

    when: RouteEvent = Field("series-complete", description="When to send")
    where: Where | None = Field(
        None, description='Only series that fit, such as { modality = "CT", body_part = "CHEST" } (docs/select.md).'
    )
    otherwise: tuple[HookName, ...] | None = Field(
        None, description="Other routes with the same when: send only series that none of them selects."
    )
    to: tuple[str, ...] = Field(
        min_length=1, description="Names of [peers] with a host, or of [destinations].", examples=[["CLOUD"]]
    )
    priority: Literal["high", "medium", "low"] = Field(
        "medium", description="Order among routes to one destination, and priority of C-STORE requests"
    )
    between: Hours | None = Field(
        None, description='Hours of sending in the local time zone, such as "20:00-06:00"; unset: always.'
    )
    transfer_syntax: Literal["keep", "uncompressed", "jpeg2000-lossless"] = Field(
        "keep", description="Encoding of the copies; a peer that does not accept it gets them uncompressed"
    )
    set: dict[str, str] = Field(
        {}, description='Attributes of the copies, such as { InstitutionName = "", PatientID = "SITE1-{PatientID}" }.'
    )
    replace: dict[str, str] = Field({}, description="The same, only for attributes that the original has.")
    remove: tuple[str, ...] = Field(
        (), description='Keywords or tags, such as "(0009,1010)", that the copies lack at every level.'
    )
    deidentify: HookName | None = Field(
        None,
        description="Table [deidentify.NAME] that removes identities from the copies, before set, replace and remove.",
    )
    confirm: bool = Field(False, description="Ask whether the destination keeps what it took, and send the rest again.")
    delete_confirmed: bool = Field(
        False, description="Delete a series once every destination has confirmed it; requires confirm."
    )
    attempts: int = Field(
        12,
        ge=1,
        le=1000,
        description="Attempts to send what a destination refuses or loses; an unreachable one is tried without limit.",
    )

    def seconds_until_open(self, now: dt.datetime) -> float:
        """Return the seconds until the hours of sending begin, by the time zone of the machine; 0 if it may send now.

        Their end is excluded; an end before the beginning is that of the next day.
        """
        if self.between is None:
            return 0.0
        begin, end = (dt.time.fromisoformat(text) for text in self.between.split("-"))
        local = now.astimezone()
        time = local.time()
        is_open = begin <= time < end if begin < end else time >= begin or time < end
        if is_open:
            return 0.0
        opening = local.replace(hour=begin.hour, minute=begin.minute, second=0, microsecond=0)
        if opening <= local:
            opening += dt.timedelta(days=1)
        return (opening - local).total_seconds()

    def _mistakes(self) -> Iterator[str]:
        if self.delete_confirmed and not self.confirm:
            yield "delete_confirmed requires confirm = true: nothing is deleted without proof"
        if self.delete_confirmed and self.deidentify is not None:
            yield "delete_confirmed and deidentify exclude each other: nobody would keep the originals"
        if self.between is not None and len(set(self.between.split("-"))) == 1:
            yield "between must begin and end at different times"
        if len(set(self.to)) < len(self.to):
            yield "to names a destination twice"
        if self.set or self.replace or self.remove:
            from node.dicom.coercion import Coercion  # here: it loads the dictionary of pydicom

            try:
                Coercion.of(self.set, self.replace, self.remove)
            except UsageError as error:
                yield str(error)
        of_volumes = _of_volumes(self.where)
        if of_volumes and self.when in ("instance-stored", "series-quiet"):
            yield (
                f"where uses {of_volumes}, but there is no volume at {self.when}: use instances or frames, "
                'or when = "series-complete", "volume-written" or "study-quiet"'
            )


class LogSettings(SettingsSection):
    """[log]: the diagnostic log on standard error; it contains no patient data."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level to log")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="Format of the log; auto: console on a terminal, else json"
    )
    file: Path | None = Field(
        None, description="File to which `serve` also writes the log, as JSON; beyond 10 MB, the last five are kept."
    )
