"""Every key of the configuration with its default, unit and rules, in one typed model.

The configuration is read once. Each part of the node receives its own section, never the file or the environment. Flags
override the environment (``VOXELNODE_SECTION__KEY``), which overrides the TOML file, which overrides these defaults.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from os.path import realpath
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator, Field, PrivateAttr, StringConstraints, create_model

from node.errors import UsageError, nearest
from node.registry import DEIDENTIFICATION, INDEX_BACKEND, RESULTS, STORE, installed, is_on, resolve
from node.selector import FIELDS, compile_selector
from node.settings.convert import Convert
from node.settings.files import Sources
from node.settings.section import AETitle, Days, HookName, Host, Hours, Seconds, SettingsSection

_Table = TypeVar("_Table", bound=SettingsSection)

QuietTime = Seconds | Literal["auto"]
OverwritePolicy = Literal["never", "replace", "keep_both"]
Acknowledge = Literal["local", "index", "object"]
Verb = Literal["echo", "store", "query", "retrieve", "commit", "worklist", "mpps"]
READING_VERBS: frozenset[Verb] = frozenset({"echo", "query", "retrieve"})
"""Services that only read the index."""

HookEvent = Literal[
    "instance-stored",
    "series-quiet",
    "volume-written",
    "volume-superseded",
    "verdict-changed",
    "series-failed",
    "study-quiet",
]
RouteEvent = Literal["instance-stored", "series-quiet", "series-complete", "volume-written", "study-quiet"]


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

FINGERPRINT = "sha256:"
"""Prefix of the fingerprint of a certificate."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/(?!\.{1,2}(/|$))[A-Za-z0-9!_.*'()=@+-]+)*/?")
COLD_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes of S3 whose objects cannot be read before they are restored."""

_FOLDER_URL = re.compile(r"file:///[^?#]+")


def _mistakes_of_endpoint(endpoint: str) -> Iterator[str]:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.path.strip("/") or parts.query:
        yield "endpoint must begin with https:// or http:// and name a host, without a path"
    if parts.username or parts.password:
        yield "endpoint must not contain keys: use credentials_file"


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
        "never",
        description="Whether other bytes with a stored UID replace it; never: they go to quarantine",
    )
    conflict_answer: Literal["success", "warning"] = Field(
        "success",
        description="Answer for an instance that does not become the current version; warning is 0xB000 in C-STORE "
        "and 202 in STOW-RS",
    )
    any_uids: bool = Field(
        False,
        description="Accept UIDs that are not digits and dots (PS3.5 9.1), which are refused (0xC000) otherwise",
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
    endpoint: str | None = Field(None, description="Server of s3:// as an https:// address; unset: Amazon S3.")
    region: str | None = Field(None, description="Region of the bucket; unset: AWS_REGION, or us-east-1.")
    credentials_file: Path | None = Field(
        None,
        description="Keys for s3://, like ~/.aws/credentials; unset: the environment, or the role of the machine.",
    )
    ca_file: Path | None = Field(None, description="PEM file of another CA for the certificate of endpoint.")
    storage_class: str | None = Field(
        None,
        pattern="^[A-Z0-9_]{1,40}$",
        description='Class of new objects, such as "STANDARD_IA"; not GLACIER or DEEP_ARCHIVE, which cannot be read '
        "at once.",
    )
    cache_bytes: int = Field(
        20_000_000_000,
        ge=0,
        description="Largest size of local copies of objects; copies in use stay beyond it.",
    )
    store_seconds: Seconds = Field(60, description="Time limit of a request to the object store.")

    def _mistakes(self) -> Iterator[str]:
        if self.url is not None and not (_BUCKET.fullmatch(self.url) or _FOLDER_URL.fullmatch(self.url)):
            yield "url must be s3://BUCKET, s3://BUCKET/PREFIX or file:///FOLDER"
        is_bucket = self.url is not None and self.url.startswith("s3://")
        of_bucket = (self.endpoint, self.region, self.credentials_file, self.ca_file, self.storage_class)
        if not is_bucket and any(value is not None for value in of_bucket):
            yield "endpoint, region, credentials_file, ca_file and storage_class require an s3:// url"
        if self.storage_class in COLD_CLASSES:
            yield f"storage_class {self.storage_class} needs a restore before each read: GLACIER_IR needs none"
        if self.endpoint is not None:
            yield from _mistakes_of_endpoint(self.endpoint)

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
        20,
        description="Longest wait for index or store before the answer is 0xA700; senders must wait longer.",
    )


class Dicom(SettingsSection):
    """[dicom]: the DICOM listener."""

    enabled: bool = Field(True, description="Accept associations.")
    ae_title: AETitle = Field("VOXELNODE", description="AE title of the node.")
    host: Host | None = Field(
        None, description="Address to listen on; unset: 127.0.0.1, or all addresses if [peers] are configured."
    )
    open: bool = Field(
        False,
        description="Listen beyond this machine without [peers]: anyone who reaches the port may store.",
    )
    port: int = Field(11112, ge=0, le=65535, description="TCP port; 0: any free port.")
    acceptor: Literal["node", "pynetdicom"] = Field(
        "node",
        description="What accepts associations; that of pynetdicom is slower and has no TLS",
    )
    require_called_ae_title: bool = Field(False, description="Reject associations that call a different AE title.")
    maximum_associations: int = Field(
        64,
        ge=1,
        le=500,
        description="Simultaneous associations; a further one replaces an idle one, or is rejected. A quarter is "
        "reserved for peers with networks or a certificate.",
    )
    response_seconds: Seconds = Field(
        60, description="Longest wait for a peer that the node calls: for acceptance, and for each answer."
    )
    idle_seconds: Seconds = Field(
        300,
        description="Time without a PDU after which an association is released; aborted if the peer does not answer.",
    )
    drain_seconds: Seconds = Field(20, description="Time for open associations to finish when the node stops.")
    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate chain; if set, only TLS connections are accepted."
    )
    tls_key: Path | None = Field(
        None, description="PEM file of its private key; unset: in the file of the certificate."
    )
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file of the CAs whose client certificates are required; unset: clients need none.",
    )


class Peer(SettingsSection):
    """[peers.NAME]: an application entity that may call us. If any peer is listed, all others are rejected."""

    ae_title: AETitle = Field(description="AE title of the peer, as caller and when called.", examples=["CT1"])
    networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description='Networks that it may call from, such as ["10.1.2.0/24"]; empty: any.'
    )
    host: Host | None = Field(
        None,
        description="Address where it listens, for C-MOVE to it, commitment reports, routes and commands.",
    )
    port: int = Field(104, ge=1, le=65535, description="TCP port where it listens.")
    may: tuple[Verb, ...] = Field(
        get_args(Verb),
        description="Services that it may use",
    )
    projects: tuple[str, ...] = Field(
        (),
        description="Projects whose series it may query and retrieve; empty: the whole index.",
    )
    tls: bool = Field(False, description="Call it over TLS, with [dicom] tls_certificate as client certificate.")
    tls_ca: Path | None = Field(
        None, description="PEM file of the CAs for its certificate; unset: those of the system."
    )
    certificate: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description='Client certificate that it must show: "sha256:" and its fingerprint, or its name; unset: any of '
        "[dicom] tls_client_ca.",
        examples=["ct1.example.org"],
    )
    confirm_by_find: bool | None = Field(
        None,
        description="Ask it by C-FIND how many instances its series have; unset: before a conversion, if it has a "
        "host; true: also while a series waits.",
        examples=[False],
    )
    releases: bool = Field(
        True,
        description="false: it never releases its associations, so their end says nothing about its series; for others "
        "the node learns that.",
    )

    @property
    def is_asked(self) -> bool:
        """Whether it is asked by C-FIND what it has of its series."""
        return self.host is not None and self.confirm_by_find is not False

    def _mistakes(self) -> Iterator[str]:
        digits = (self.certificate or "").removeprefix(FINGERPRINT).replace(":", "")
        if (self.certificate or "").startswith(FINGERPRINT) and not re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
            yield f"certificate must be {FINGERPRINT} and 64 hexadecimal digits, or a name"
        if self.confirm_by_find and self.host is None:
            yield "confirm_by_find needs host: where the peer listens"
        if self.projects and (others := set(self.may) - READING_VERBS):
            others_named = ", ".join(sorted(others))
            yield f"a peer with projects only reads: take {others_named} out of may, or give them to another AE title"


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
        300,
        description="The same after an association that was not released: the sender may reconnect.",
    )
    force_complete_after_seconds: Seconds = Field(
        5400,
        description="Time after the first instance at which a series is converted even if more arrive.",
    )
    study_quiet_seconds: Seconds = Field(
        900,
        description="Time after the last conversion at which a study is quiet.",
    )


class RetentionSettings(SettingsSection):
    """[retention]: automatic deletion of whole studies, by default of none, and the trash."""

    days: Days | None = Field(
        None,
        description="Days without a new instance after which a study is deleted with its volumes; unset: never.",
    )
    days_by_calling_ae_title: dict[str, Days | Literal["never"]] = Field(
        {}, description='days for single senders, such as { CT1 = 30, RESEARCH = "never" }.'
    )
    maximum_studies: int | None = Field(
        None,
        ge=1,
        description="Most studies to keep; those without new instances for longest are deleted first.",
    )
    only_converted: bool = Field(True, description="Keep a study while any of its series waits, was refused or failed.")
    keep_where: Where | None = Field(
        None,
        description='Series whose studies are never deleted, such as { modality = "MR" } (docs/select.md).',
    )
    maximum_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Largest share of all studies that one pass deletes; more waits for `voxelnode retention confirm`.",
    )
    dry_run: bool = Field(False, description="Only log what would be deleted.")
    trash_days: float = Field(
        7,
        ge=0,
        description="Days in which a deletion can be undone, unless the disk is short of room; 0: none.",
    )

    @property
    def is_active(self) -> bool:
        """Whether any rule may delete a study."""
        return self.days is not None or bool(self.days_by_calling_ae_title) or self.maximum_studies is not None


class AuditSettings(SettingsSection):
    """[audit]: the record of who stored, read, changed and deleted what, audit.jsonl in the root; it names patients."""

    syslog: str | None = Field(
        None,
        description="Collector of a copy of each line: tls://HOST:PORT, HOST:PORT (UDP), or a socket such as /dev/log.",
    )
    syslog_format: Literal["json", "dicom"] = Field(
        "json",
        description="Format of the copy: the line itself, or XML of PS3.15 A.5 (IHE ATNA)",
    )
    syslog_ca_file: Path | None = Field(
        None,
        description="PEM file of the CAs for the collector's certificate; unset: those of the system.",
    )
    syslog_certificate: Path | None = Field(
        None, description="PEM file of a client certificate, if the collector requires one."
    )
    syslog_key: Path | None = Field(
        None, description="PEM file of its private key; unset: in the file of the certificate."
    )


class Oidc(SettingsSection):
    """[web.oidc]: accounts of an identity provider such as Keycloak or Entra ID, by OpenID Connect."""

    issuer: str = Field("", description="Address of the provider, https://...; empty: only accounts of the node.")
    client_id: str = Field("", description="Name of this node at the provider.")
    client_secret_file: Path | None = Field(
        None, description="File with the secret of client_id; unset: a public client, with PKCE only."
    )
    ca_file: Path | None = Field(None, description="PEM file of another CA for the provider's certificate.")
    scopes: tuple[str, ...] = Field(("openid", "profile"), description="Scopes to request; openid must be among them.")
    name_claim: str = Field(
        "sub",
        min_length=1,
        description="Claim that names the account, as oidc:NAME; it must be one that users cannot change.",
    )
    role_claim: str = Field(
        "roles", min_length=1, description="Claim with the roles or groups of a user, such as realm_access.roles."
    )
    read: tuple[str, ...] = Field((), description="Values of role_claim that grant the role read.")
    write: tuple[str, ...] = Field((), description="Values of role_claim that grant the role write.")
    admin: tuple[str, ...] = Field((), description="Values of role_claim that grant the role admin.")
    allowed: tuple[str, ...] = Field(
        (), description="Accounts (name_claim) that may sign in; empty: everyone with a role."
    )
    audience: str = Field(
        "",
        description="Audience of access tokens that REST and DICOMweb accept as Bearer; empty: none.",
    )

    def _mistakes(self) -> Iterator[str]:
        if not self.issuer:
            return
        parts = urlsplit(self.issuer)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
            yield "issuer must begin with https://, unless the provider is on this machine"
        if not parts.hostname or parts.query or parts.fragment or parts.username:
            yield "issuer must be an address without query, fragment or user name"
        if not self.client_id:
            yield "issuer requires client_id"
        if self.audience == self.client_id:
            yield "audience must differ from client_id, the audience of ID tokens: those grant no access"
        if "openid" not in self.scopes:
            yield 'scopes must contain "openid"'
        if not (self.read or self.write or self.admin):
            yield "read, write or admin must name a value of role_claim, or nobody could sign in"


class Web(SettingsSection):
    """[web]: pages, REST and DICOMweb over HTTP."""

    enabled: bool = Field(True, description="Serve HTTP.")
    host: Host = Field("127.0.0.1", description="Address to listen on; beyond this machine, requests need an account.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0: any free port.")
    authentication: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether requests need an account; auto: unless only this machine can reach the node",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description='Host names by which clients reach the node, such as ["pacs.example.org"], beside addresses.',
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
    oidc: Oidc = Field(Oidc(), description="Accounts of an identity provider.")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach us, judging by the configuration."""
        return is_loopback(self.host) and not self.trusted_proxies

    @property
    def needs_account(self) -> bool:
        """Whether requests need an account."""
        return self.authentication == "always" or (self.authentication == "auto" and not self.is_local)


class HookSettings(SettingsSection):
    """[hooks.NAME]: a receiver of messages about events, after their commit; set url, command or plugin."""

    on: tuple[HookEvent, ...] = Field(min_length=1, description="Events", examples=[["volume-written"]])
    url: str | None = Field(
        None,
        description="Address that messages are posted to, as JSON.",
        examples=["https://pipeline.example.org/events"],
    )
    secret_file: Path | None = Field(
        None, description="File with the secret that signs messages: whsec_ and 24 to 64 bytes in base64."
    )
    secret: str | None = Field(
        None,
        max_length=4000,
        pattern=r"^[!-~]+$",
        description="the same, in place of a file: of a hook that the pages have written; never shown",
        repr=False,
        exclude=True,
    )
    ca_file: Path | None = Field(
        None,
        description="PEM file of another CA for the receiver's certificate.",
    )
    command: tuple[str, ...] = Field(
        (),
        description='Program and arguments, such as ["/usr/local/bin/segment", "{path}"]; its input is the message.',
    )
    plugin: str | None = Field(None, description='Entry point in the group "voxelnode.plugins".')
    calling_ae_titles: tuple[AETitle, ...] = Field((), description="Only events of these senders; empty: all.")
    where: Where | None = Field(
        None,
        description='Only series that fit, such as { modality = "CT", slices = ">=50" } (docs/select.md).',
    )
    include_patient: bool = Field(False, description="Include ID, name, birth date and sex of the patient in messages.")
    results: bool = Field(
        False,
        description="Accept results (masks, reports, documents) for each message (docs/results.md).",
    )
    job_seconds: Seconds = Field(86_400, description="Time limit of a job from the 202 of a webhook to its results.")
    timeout_seconds: Seconds = Field(30, description="Time limit of one attempt.")
    attempts: int = Field(12, ge=1, le=1000, description="Attempts before a message is given up.")

    @property
    def kind(self) -> str:
        """The key that says who receives the messages."""
        return self._kinds()[0]

    def _kinds(self) -> list[str]:
        keys = ("url", "command", "plugin")
        return [key for key in keys if getattr(self, key) not in (None, ())]

    @property
    def receiver(self) -> str:
        """Who receives the messages, for people."""
        return self.url or (f"plugin {self.plugin}" if self.plugin else " ".join(self.command))

    @property
    def host(self) -> str:
        """The host that messages go to by HTTP; empty: they do not."""
        return urlsplit(self.url or "").hostname or ""

    def _mistakes(self) -> Iterator[str]:
        if len(self._kinds()) != 1:
            yield "exactly one of url, command and plugin must be given"
        if self.url is None and self.secret_file:
            yield "secret_file requires url"
        if self.secret is not None and (self.secret_file or not self.url):
            yield "secret is of a hook with url, and in place of a file"
        if self.url is None and self.ca_file:
            yield "ca_file requires url"
        if self.url is not None:
            yield from self._mistakes_of_url(self.url)
        yield from self._mistakes_of_placeholders()
        yield from self._mistakes_of_results()
        of_volumes = sorted(name for name in self._fields() if FIELDS[name].group == "volume")
        if of_volumes and (early := [event for event in self.on if event not in _VOLUME_EVENTS]):
            yield (
                f"where uses {', '.join(of_volumes)}, but there is no volume at {', '.join(early)}: use instances or "
                "frames there, or only the events volume-written, volume-superseded, verdict-changed and study-quiet"
            )

    def _mistakes_of_url(self, url: str) -> Iterator[str]:
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            yield "url must begin with https:// or http:// and name a host"
        if parts.username or parts.password:
            yield "url must not contain a user name or password: use secret_file to sign messages instead"
        if parts.scheme == "http" and self.include_patient and not is_loopback(parts.hostname or ""):
            yield "url must be https:// where the patient is named, unless the host is this machine"

    def _mistakes_of_results(self) -> Iterator[str]:
        if not self.results:
            if any("{out}" in argument for argument in self.command):
                yield "{out} in command needs results = true"
            return
        if other := [event for event in self.on if event not in RESULT_EVENTS]:
            yield f"results come from {', '.join(RESULT_EVENTS)}, not from {', '.join(other)}"
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
                yield "results needs an https:// url, unless the host is this machine: messages have a token"

    def _mistakes_of_placeholders(self) -> Iterator[str]:
        for name in dict.fromkeys(name for argument in self.command for name in PLACEHOLDER.findall(argument)):
            events = PLACEHOLDERS.get(name)
            if events is None:
                yield f"unknown placeholder {{{name}}} in command; known: {', '.join(PLACEHOLDERS)}"
            elif lacking := [event for event in self.on if event not in events]:
                yield f"{{{name}}} in command is not in messages of {', '.join(lacking)}"
        if self.command and PLACEHOLDER.search(self.command[0]):
            yield "the program in command must be the same for every message"

    def _fields(self) -> frozenset[str]:
        return compile_selector(self.where).fields if self.where is not None else frozenset()


_DESTINATION_KINDS = ("url", "s3", "folder", "bids")


class Destination(SettingsSection):
    """[destinations.NAME]: a receiver of routes that is not in [peers]: a server, a folder or a BIDS data set."""

    url: str | None = Field(
        None,
        description="DICOMweb server that gets instances by STOW-RS.",
        examples=["https://pacs.example.org/dicom-web"],
    )
    token_file: Path | None = Field(None, description="File with a token that is sent as Authorization: Bearer.")
    ca_file: Path | None = Field(None, description="PEM file of another CA for the server's certificate.")
    s3: str | None = Field(
        None,
        description="s3://BUCKET/PREFIX that gets DICOM files (extra `s3`).",
    )
    endpoint: str | None = Field(
        None,
        description="Server of s3 as an https:// address; unset: Amazon S3.",
    )
    region: str | None = Field(None, description="Region of the bucket; unset: AWS_REGION, or us-east-1.")
    credentials_file: Path | None = Field(
        None,
        description="Keys for s3, like ~/.aws/credentials; unset: the environment, or the role of the machine.",
    )
    folder: Path | None = Field(None, description="Folder that gets DICOM files; it must exist.")
    layout: Literal["names", "archive"] = Field(
        "names",
        description="Names of files: PATIENT/STUDY/SERIES/INSTANCE, or those of the archive, which name nobody",
    )
    bids: Path | None = Field(
        None,
        description="Folder of a BIDS data set that grows with complete series; it must exist.",
    )
    rules: Path | None = Field(None, description="Rules of the data set (docs/bids.md); unset: the default rules.")
    key: Path | None = Field(
        None,
        description="File with the key of its pseudonyms; unset: bids.key in the root.",
    )
    timeout_seconds: Seconds = Field(60, description="Longest wait for a server.")

    @property
    def kind(self) -> str:
        """The key that says what the destination is."""
        return next(key for key in _DESTINATION_KINDS if getattr(self, key) is not None)

    def _mistakes(self) -> Iterator[str]:
        if sum(getattr(self, key) is not None for key in _DESTINATION_KINDS) != 1:
            yield "exactly one of url, s3, folder and bids must be given"
        if self.bids is None and (self.rules or self.key):
            yield "rules and key require bids"
        yield from self._mistakes_of_bucket()
        if self.url is None and self.token_file:
            yield "token_file requires url"
        if self.url is None and self.s3 is None and self.ca_file:
            yield "ca_file requires url or s3"
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
                yield "url must begin with https:// or http:// and name a host, without query or fragment"
            if parts.username or parts.password:
                yield "url must not contain a user name or password: use token_file"
            if parts.scheme == "http" and self.token_file and not is_loopback(parts.hostname or ""):
                yield "token_file needs an https:// url, unless the host is this machine"

    def _mistakes_of_bucket(self) -> Iterator[str]:
        if self.s3 is None and (self.endpoint or self.region or self.credentials_file):
            yield "endpoint, region and credentials_file require s3"
        if self.s3 is not None and not _BUCKET.fullmatch(self.s3):
            yield "s3 must be s3://BUCKET or s3://BUCKET/PREFIX"
        if self.endpoint is not None:
            yield from _mistakes_of_endpoint(self.endpoint)


class Route(SettingsSection):
    """[routes.NAME]: copies of instances that are sent on to other nodes, after their commit."""

    when: RouteEvent = Field(
        "series-complete",
        description="When to send",
    )
    where: Where | None = Field(
        None,
        description='Only series that fit, such as { modality = "CT", body_part = "CHEST" } (docs/select.md).',
    )
    otherwise: tuple[HookName, ...] = Field(
        (),
        description="Other routes with the same when: send only series that none of them selects.",
    )
    to: tuple[str, ...] = Field(
        min_length=1,
        description="Names of [peers] with a host, or of [destinations].",
        examples=[["CLOUD"]],
    )
    priority: Literal["high", "medium", "low"] = Field(
        "medium",
        description="Order among routes to one destination, and priority of C-STORE requests",
    )
    between: Hours | None = Field(
        None,
        description='Hours of sending in the local time zone, such as "20:00-06:00"; unset: always.',
    )
    transfer_syntax: Literal["keep", "uncompressed", "jpeg2000-lossless"] = Field(
        "keep",
        description="Encoding of the copies; a peer that does not accept it gets them uncompressed",
    )
    set: dict[str, str] = Field(
        {},
        description='Attributes of the copies, such as { InstitutionName = "", PatientID = "SITE1-{PatientID}" }.',
    )
    replace: dict[str, str] = Field({}, description="The same, only for attributes that the original has.")
    remove: tuple[str, ...] = Field(
        (), description='Keywords or tags, such as "(0009,1010)", that the copies lack at every level.'
    )
    deidentify: HookName | None = Field(
        None,
        description="Table [deidentify.NAME] that removes identities from the copies, before set, replace and remove.",
    )
    confirm: bool = Field(
        False,
        description="Ask whether the destination keeps what it took, and send the rest again.",
    )
    delete_confirmed: bool = Field(
        False,
        description="Delete a series once every destination has confirmed it; requires confirm.",
    )
    return_to_sender: bool = Field(False, description="Send a peer its own instances, too; this can make loops.")
    attempts: int = Field(
        12,
        ge=1,
        le=1000,
        description="Attempts to send what a destination refuses or loses; an unreachable one is tried without limit.",
    )

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
        fields = compile_selector(self.where).fields if self.where is not None else frozenset()
        of_volumes = sorted(name for name in fields if FIELDS[name].group == "volume")
        if of_volumes and self.when in ("instance-stored", "series-quiet"):
            yield (
                f"where uses {', '.join(of_volumes)}, but there is no volume at {self.when}: use instances or frames, "
                'or when = "series-complete", "volume-written" or "study-quiet"'
            )


_OF_COPIES = (
    "priority", "transfer_syntax", "set", "replace", "remove", "confirm", "delete_confirmed",
    "return_to_sender", "deidentify",
)  # fmt: skip
"""Keys of a route that are about copies of instances."""


def _mistakes_of_dataset_route(route: Route) -> Iterator[str]:
    """Yield why a route cannot keep a BIDS data set up to date."""
    if len(route.to) > 1:
        yield "a BIDS data set is the only destination of its route"
    if route.when in ("instance-stored", "series-quiet"):
        yield f'there is no volume at {route.when}: use when = "study-quiet", "series-complete" or "volume-written"'
    if given := [key for key in _OF_COPIES if key in route.model_fields_set]:
        yield f"{', '.join(given)}: instances are not sent, and the rules of the data set say what it has"


PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
"""A placeholder in the command of a hook, replaced by a value of the message."""

_SERIES_EVENTS: tuple[HookEvent, ...] = (
    *("series-quiet", "volume-written", "volume-superseded", "verdict-changed", "series-failed"),
)
RESULT_EVENTS: tuple[HookEvent, ...] = ("series-quiet", "volume-written", "study-quiet")
"""Events to which a hook can give results."""

_VOLUME_EVENTS: tuple[HookEvent, ...] = ("volume-written", "volume-superseded", "verdict-changed", "study-quiet")
PLACEHOLDERS: Mapping[str, tuple[HookEvent, ...]] = {
    "id": get_args(HookEvent),
    "event": get_args(HookEvent),
    "study_instance_uid": get_args(HookEvent),
    "series_instance_uid": ("instance-stored", *_SERIES_EVENTS),
    "sop_instance_uid": ("instance-stored",),
    "revision": _SERIES_EVENTS,
    "path": ("instance-stored", "volume-written"),
    "folder": ("volume-written",),
    "out": RESULT_EVENTS,
}
"""Placeholders, and the events whose messages have a value for them."""


class Log(SettingsSection):
    """[log]: the diagnostic log on standard error; it contains no patient data."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level to log")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="Format of the log; auto: console on a terminal, else json"
    )
    file: Path | None = Field(None, description="File to which `serve` also writes the log, as JSON.")


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
        120.0,
        ge=4,
        le=3600,
        description="Time after which other hosts take over the work of a silent one.",
    )
    announce_seconds: float = Field(
        0.0,
        ge=0,
        le=300,
        description="Time for which a stopping host still accepts associations, while /readyz fails.",
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


class ExtensionsSettings(SettingsSection):
    """[extensions]: what is added to the node (docs/extensions.md)."""

    disabled: tuple[str, ...] = Field(
        (), description="Extensions that are switched off; `voxelnode config check` lists all."
    )


IN_FORCE = "peers", "routes", "hooks", "retention"
"""Tables that a running node takes over from files that have changed, beside the level of the log."""


class Settings(SettingsSection):
    """The tables of the core. The name is bound below to the whole configuration, with the tables of extensions."""

    storage: Storage = Storage()
    journal: JournalSettings = JournalSettings()
    index: IndexSettings = IndexSettings()
    cluster: ClusterSettings = ClusterSettings()
    dicom: Dicom = Dicom()
    peers: dict[str, Peer] = Field(default_factory=dict)
    series: SeriesSettings = SeriesSettings()
    convert: Convert = Convert()
    retention: RetentionSettings = RetentionSettings()
    audit: AuditSettings = AuditSettings()
    web: Web = Web()
    hooks: dict[HookName, HookSettings] = Field(default_factory=dict)
    destinations: dict[HookName, Destination] = Field(default_factory=dict)
    routes: dict[HookName, Route] = Field(default_factory=dict)
    log: Log = Log()
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
    def acknowledge(self) -> Acknowledge:
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
        if self.storage.url is not None and not is_on(self, STORE):
            yield "storage: url is of an extension that [extensions] disabled switches off"
        yield from self._mistakes_of_hooks()
        yield from self._mistakes_of_destinations()
        yield from self._mistakes_of_datasets()
        for name, route in self.routes.items():
            if route.deidentify is not None and not is_on(self, DEIDENTIFICATION):
                yield f"routes.{name}: deidentify is of an extension that [extensions] disabled switches off"
            for mistake in self._mistakes_of_otherwise(name, route):
                yield f"routes.{name}: otherwise: {mistake}"
        yield from self._mistakes_of_extensions()

    def _mistakes_of_extensions(self) -> Iterator[str]:
        names = [extension.name for extension in installed()]
        for name in self.extensions.disabled:
            if name not in names:
                yield f"extensions: disabled: {name!r} is not an extension{nearest(name, names)}"
        for extension in installed():
            yield from extension.mistakes(self)

    def _mistakes_of_hosts(self) -> Iterator[str]:
        if not self.shares_index and set(self.cluster.roles) != set(get_args(Role)):
            yield "cluster: roles share work of hosts with one index and one store: set [index] url and [storage] url"
        if self.index.url is not None and HOST_NAME.fullmatch(self.cluster.name) is None:
            yield f"cluster: the machine is called {self.cluster.name!r}: set host to a name without spaces"
        if self.index.url is not None and not is_on(self, INDEX_BACKEND):
            yield "index: url is of an extension that [extensions] disabled switches off"

    def _mistakes_of_hooks(self) -> Iterator[str]:
        for name, hook in self.hooks.items():
            if hook.results and not is_on(self, RESULTS):
                yield f"hooks.{name}: results is of an extension that [extensions] disabled switches off"
            if hook.results and hook.url is not None and not self.web.enabled:
                yield f"hooks.{name}: a webhook gives its results over HTTP: [web] enabled must be true"

    def _mistakes_of_destinations(self) -> Iterator[str]:
        for both in sorted(self.peers.keys() & self.destinations.keys()):
            yield f"destinations.{both}: [peers] has the same name, so that a route could not tell them apart"
        known = [*self.receivers, *self.datasets]
        if "-" in self.routes:
            yield "routes.-: the name stands for what is sent by hand"
        for name, route in self.routes.items():
            for destination in route.to:
                if destination not in known:
                    yield (
                        f"routes.{name}: to: {destination!r} is neither a name in [destinations] nor that of a peer in "
                        f"[peers] with a host{nearest(destination, known) if known else ''}"
                    )

    def _mistakes_of_otherwise(self, name: str, route: Route) -> Iterator[str]:
        for other_name in route.otherwise:
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
                left += self.routes[one].otherwise
        return found

    def _mistakes_of_datasets(self) -> Iterator[str]:
        owners: dict[Path, str] = {}
        for name, route in self.routes.items():
            of_route = [to for to in route.to if to in self.datasets]
            if not of_route:
                continue
            for mistake in _mistakes_of_dataset_route(route):
                yield f"routes.{name}: to: {of_route[0]}: {mistake}"
            if "nifti" not in self.convert.formats:
                yield f"routes.{name}: to: {of_route[0]}: [convert] formats must contain nifti"
            place = Path(realpath(self.datasets[of_route[0]]))
            if (other := owners.setdefault(place, name)) != name:
                yield f"routes.{name}: to: {place} is the data set of routes.{other}: widen where of one route"

    @property
    def receivers(self) -> list[str]:
        """Names of everything to which instances can be sent: peers with a host, and destinations but data sets."""
        return [*(name for name in self.destinations if name not in self.datasets), *self.called_peers]

    @property
    def called_peers(self) -> list[str]:
        """Names of the peers that the node can call: those with a host."""
        return [name for name, peer in self.peers.items() if peer.host is not None]

    @property
    def datasets(self) -> dict[str, Path]:
        """The folders of BIDS data sets by the names of their destinations."""
        return {name: one.bids for name, one in self.destinations.items() if one.bids is not None}

    @property
    def bind_host(self) -> str:
        """The address to listen on: 127.0.0.1, unless host is set or peers are configured."""
        return self.dicom.host or ("0.0.0.0" if self.peers else "127.0.0.1")


_TABLES: dict[type[SettingsSection], str] = {}
"""The tables of extensions by their models."""


def _with_tables_of_extensions(core: type[Settings]) -> type[Settings]:
    """Return the model of the whole configuration."""
    fields: dict[str, Any] = {}
    for extension in installed():
        for table in extension.tables:
            if table.name in core.model_fields or table.name in fields:
                raise UsageError(f"the extension {extension.name}: there is a table [{table.name}] already")
            model: Any = resolve(table.place)
            _TABLES[model] = table.name
            default = Field(default_factory=dict) if table.is_named else model()
            fields[table.name] = (dict[HookName, model] if table.is_named else model, default)
    return create_model(
        core.__name__, __base__=core, __module__=core.__module__, __doc__="The whole configuration.", **fields
    )


if not TYPE_CHECKING:
    Settings = _with_tables_of_extensions(Settings)
