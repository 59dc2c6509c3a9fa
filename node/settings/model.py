"""Every key of the configuration with its default, unit and rules, in one typed model.

The configuration is read once. Each part of the node receives its own section, never the file or the environment. Flags
override the environment (``VOXELNODE_SECTION__KEY``), which overrides the TOML file, which overrides these defaults.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
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
from node.settings.section import AETitle, Days, HookName, Host, Hours, Seconds, SettingsSection

_Table = TypeVar("_Table", bound=SettingsSection)

QuietTime = Seconds | Literal["auto"]
OverwritePolicy = Literal["never", "replace", "keep_both"]
Acknowledge = Literal["local", "index", "object"]
Verb = Literal["echo", "store", "query", "retrieve", "commit", "worklist", "mpps"]
READING_VERBS: frozenset[Verb] = frozenset({"echo", "query", "retrieve"})
"""Services that only read the index."""

HookEvent = Literal[
    "instance-stored", "series-quiet", "volume-written", "volume-superseded", "series-failed", "study-quiet"
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

    root: Path = Field(Path("voxelnode-data"), description="folder of the archive, the index and the volumes")
    reserve_bytes: int = Field(
        2_000_000_000,
        ge=0,
        description="free disk space that stays unused, in bytes. Below it: C-STORE is answered 0xA700, no "
        "conversion begins; below twice as much: new associations are rejected",
    )
    overwrite_policy: OverwritePolicy = Field(
        "never",
        description="an instance with the SOP Instance UID of a stored one but other bytes; never: it goes to "
        "quarantine; replace: it takes the place of the stored one, which goes to quarantine; keep_both: the "
        "stored one stays, and the new one is archived beside it",
    )
    conflict_answer: Literal["success", "warning"] = Field(
        "success",
        description="answer to the sender of an instance that is kept while another version of it is current; "
        "success: C-STORE 0x0000, STOW-RS 200; warning: 0xB000, which some senders take for a failure, and 202 "
        "with a Warning Reason",
    )
    journal_bytes: int = Field(
        1_073_741_824,
        ge=16_777_216,
        le=68_719_476_736,
        description="most disk space of the journal, in bytes, where acknowledged instances wait for the index; "
        "when it is full, senders wait, and are answered 0xA700 after 10 seconds",
    )

    scrub_days: float = Field(
        30.0,
        ge=0,
        le=3650,
        description="days in which every file of the archive is read again and compared with its SHA-256, in the "
        "background; 0: never",
    )

    names: str | None = Field(
        None,
        max_length=200,
        description="template of a tree of links in the folder names of root: folder of a study, then series, "
        "with the tokens of `voxelnode convert --name`, such as "
        '"{patient_name}_{study_date}_{modality}/{series_number:03}_{series_description}" (docs/names.md); unset: '
        "none",
    )
    url: str | None = Field(
        None,
        description="object store of instances and volumes, s3://BUCKET/PREFIX (pip install 'voxelnode[s3]') or "
        "file:///FOLDER (docs/object-store.md); root then has copies, and files that wait; unset: they stay in "
        "root",
    )
    endpoint: str | None = Field(
        None, description='address of the server of s3://, such as "https://s3.example.org:9000"; unset: Amazon S3'
    )
    region: str | None = Field(None, description="region of the bucket; unset: AWS_REGION, or us-east-1")
    credentials_file: Path | None = Field(
        None,
        description="keys for s3://, in a file as ~/.aws/credentials; unset: AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or the role of the machine",
    )
    ca_file: Path | None = Field(
        None, description="PEM file of a further CA that may have signed the certificate of endpoint"
    )
    storage_class: str | None = Field(
        None,
        pattern="^[A-Z0-9_]{1,40}$",
        description='class of new objects, such as "STANDARD_IA"; not GLACIER or DEEP_ARCHIVE, which cannot be '
        "read at once; unset: the usual",
    )
    cache_bytes: int = Field(
        20_000_000_000,
        ge=0,
        description="largest size of local copies of objects, in bytes; those in use stay beyond it",
    )
    store_seconds: Seconds = Field(60, description="longest time of a request to the object store")

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
        description="local: once it is synced in the journal of this host; index: once its row is committed in "
        "the index, too; object: once it is also in the object store of [storage] url (docs/journal.md); unset: "
        "index if [index] url and [storage] url are set, so that hosts may share them, else local",
    )
    acknowledge_seconds: Seconds = Field(
        20,
        description="longest wait for index or store; then the answer is 0xA700. Senders must wait longer than that",
    )


class Dicom(SettingsSection):
    """[dicom]: the DICOM listener."""

    enabled: bool = Field(True, description="accept associations; false: nothing comes in over DICOM")
    ae_title: AETitle = Field("VOXELNODE", description="our AE title")
    host: Host | None = Field(
        None, description="address to listen on; unset: 127.0.0.1, or all addresses if [peers] are configured"
    )
    open: bool = Field(
        False,
        description="listen beyond this machine without [peers]: anyone who reaches the port may store; false: "
        "such a host is refused",
    )
    port: int = Field(11112, ge=0, le=65535, description="TCP port; 0: any free port")
    acceptor: Literal["node", "pynetdicom"] = Field(
        "node",
        description="what accepts associations: the node, or pynetdicom's acceptor, which is slower and has no TLS",
    )
    require_called_ae_title: bool = Field(False, description="reject associations that call a different AE title")
    maximum_pdu_bytes: int = Field(
        131072, ge=4096, le=1048576, description="largest PDU that we announce and accept, in bytes"
    )
    maximum_associations: int = Field(
        64,
        ge=1,
        le=500,
        description="simultaneous associations; a further one replaces an idle one, or is rejected. A quarter is "
        "reserved for peers with networks or a certificate, if there are any",
    )
    maximum_associations_per_address: int = Field(
        16, ge=1, le=500, description="simultaneous associations from one address"
    )
    maximum_associations_per_peer: int = Field(
        32,
        ge=1,
        le=500,
        description="simultaneous associations of one AE title of a peer with networks or a certificate",
    )
    maximum_instance_bytes: int = Field(
        16_000_000_000, ge=1024, description="largest data set, in bytes; a larger one is answered 0xA700"
    )
    request_seconds: Seconds = Field(
        10, description="longest time from the TCP connection to the end of the A-ASSOCIATE-RQ"
    )
    pdu_seconds: Seconds = Field(30, description="longest time from the first to the last byte of a PDU")
    response_seconds: Seconds = Field(
        60, description="longest wait for a peer that we call: for acceptance, and for each answer"
    )
    idle_seconds: Seconds = Field(300, description="time without a PDU after which an association is aborted")
    drain_seconds: Seconds = Field(20, description="time that open associations have to finish when the node stops")
    maximum_query_results: int = Field(
        100_000,
        ge=100,
        le=10_000_000,
        description="largest number of matches of a C-FIND; a query with more is answered 0xA700",
    )
    maximum_retrieves: int = Field(
        4, ge=1, le=100, description="simultaneous C-MOVE and C-GET operations; further ones wait"
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of our certificate chain; if set, only TLS connections are accepted"
    )
    tls_key: Path | None = Field(None, description="PEM file of its private key; unset: in the file of the certificate")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file of the CAs whose client certificates we require; unset: no client certificate needed",
    )


class Peer(SettingsSection):
    """[peers.NAME]: an application entity that may call us. If any peer is listed, all others are rejected."""

    ae_title: AETitle = Field(description="AE title of the peer, both as caller and when called", examples=["CT1"])
    networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description='networks that it may connect from, such as ["10.1.2.0/24"]; empty: any'
    )
    host: Host | None = Field(
        None,
        description="address where it listens; needed for C-MOVE to it, for commitment reports and for commands "
        "that call it",
    )
    port: int = Field(104, ge=1, le=65535, description="TCP port where it listens")
    may: tuple[Verb, ...] = Field(
        get_args(Verb),
        description="services that it may use: query is C-FIND, retrieve C-MOVE and C-GET, commit storage "
        "commitment, worklist C-FIND of scheduled procedure steps, mpps performed procedure steps",
    )
    projects: tuple[str, ...] = Field(
        (),
        description='projects whose series, and no others, it sees by query and retrieve, such as ["trial"]; '
        "`may` then has no other services than echo, query and retrieve. Empty: the whole index",
    )
    tls: bool = Field(
        False, description="call it over TLS, with [dicom] tls_certificate as our client certificate if that is set"
    )
    tls_ca: Path | None = Field(
        None, description="PEM file of the CAs that may have signed its certificate; unset: the CAs of the system"
    )
    certificate: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="certificate that it must show when it calls, by [dicom] tls_client_ca: its fingerprint "
        '("sha256:" and 64 hexadecimal digits), common name or subject alternative name. Unset: any of '
        "tls_client_ca",
        examples=["ct1.example.org"],
    )
    confirm_by_find: bool | None = Field(
        None,
        description="ask it by C-FIND how many instances its series have. Unset: once before a conversion, if it "
        "has a host; true: also while a series waits, which is converted once all were received; false: never",
        examples=[False],
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
        description='time without a new instance after which a series is converted; "auto": learnt from the '
        "sender, 10 to 600 (docs/lifecycle.md)",
    )
    quiet_seconds_by_calling_ae_title: dict[str, QuietTime] = Field(
        {}, description='quiet_seconds for individual senders, such as { SLOWPACS = 300, CT1 = "auto" }'
    )
    aborted_grace_seconds: Seconds = Field(
        300,
        description="the same after an association that was not released: the sender may reconnect",
    )
    force_complete_after_seconds: Seconds = Field(
        5400,
        description="time since the first instance after which a series is converted even if more are received",
    )
    study_quiet_seconds: Seconds = Field(
        900,
        description="time since the last conversion after which a study is quiet, unless one of its series is not "
        "converted yet",
    )


class RetentionSettings(SettingsSection):
    """[retention]: automatic deletion of whole studies, by default of none, and the trash."""

    days: Days | None = Field(
        None,
        description="time without a new instance after which a study is deleted with its volumes; unset: never",
    )
    days_by_calling_ae_title: dict[str, Days | Literal["never"]] = Field(
        {}, description='days for individual senders, such as { CT1 = 30, RESEARCH = "never" }'
    )
    maximum_studies: int | None = Field(
        None,
        ge=1,
        description="most studies to keep; the one that has gone longest without a new instance is deleted first; "
        "unset: no limit",
    )
    only_converted: bool = Field(
        True, description="keep a study while any of its series waits for conversion, was refused or failed"
    )
    keep_where: Where | None = Field(
        None,
        description='series whose studies are never deleted, such as { modality = "MR" }; an expression or a table of '
        "docs/select.md",
    )
    maximum_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="largest share of all studies that one pass deletes; for more, if more than three, it waits "
        "for `voxelnode retention confirm`",
    )
    dry_run: bool = Field(False, description="only log what would be deleted")
    trash_days: float = Field(
        7,
        ge=0,
        description="days in which a deletion, also by hand, can be undone; files stay until then, or until the "
        "disk is short of room; 0: they are removed at once",
    )

    @property
    def is_active(self) -> bool:
        """Whether any rule may delete a study."""
        return self.days is not None or bool(self.days_by_calling_ae_title) or self.maximum_studies is not None


class AuditSettings(SettingsSection):
    """[audit]: the record of who stored, read, changed and deleted what, audit.jsonl in the root; it names patients."""

    syslog: str | None = Field(
        None,
        description="also send each line to tls://HOST:PORT (RFC 5425), HOST:PORT (UDP), or a socket such as /dev/log",
    )
    syslog_format: Literal["json", "dicom"] = Field(
        "json",
        description="json: the line itself; dicom: the XML of PS3.15 A.5, for IHE ATNA",
    )
    syslog_ca_file: Path | None = Field(
        None,
        description="PEM file of the CAs that may have signed the collector's certificate; unset: those of the system",
    )
    syslog_certificate: Path | None = Field(
        None, description="PEM file of our certificate, if the collector requires one"
    )
    syslog_key: Path | None = Field(
        None, description="PEM file of its private key; unset: in the file of the certificate"
    )
    maximum_bytes: int = Field(
        100_000_000,
        ge=10_000,
        description="size at which audit.jsonl becomes audit-000001.jsonl (and so on), and a new file begins",
    )


class Oidc(SettingsSection):
    """[web.oidc]: accounts of an identity provider such as Keycloak or Entra ID, by OpenID Connect."""

    issuer: str = Field("", description="address of the provider, https://...; empty: only our own accounts")
    client_id: str = Field("", description="name under which the provider knows this node")
    client_secret_file: Path | None = Field(
        None, description="file with the secret of client_id; unset: a public client, with PKCE only"
    )
    ca_file: Path | None = Field(
        None, description="PEM file of a further CA that may have signed the provider's certificate"
    )
    scopes: tuple[str, ...] = Field(("openid", "profile"), description="scopes to request; openid must be among them")
    name_claim: str = Field(
        "sub",
        min_length=1,
        description="claim that names the account, oidc:NAME; use preferred_username only if users cannot change "
        "their own",
    )
    role_claim: str = Field(
        "roles", min_length=1, description="claim with the roles or groups of a user, such as realm_access.roles"
    )
    read: tuple[str, ...] = Field((), description="values of role_claim that grant the role read")
    write: tuple[str, ...] = Field((), description="values of role_claim that grant the role write")
    admin: tuple[str, ...] = Field((), description="values of role_claim that grant the role admin")
    allowed: tuple[str, ...] = Field(
        (), description="names (name_claim) that may sign in; empty: everyone whose role_claim grants a role"
    )
    audience: str = Field(
        "",
        description="audience of the provider's access tokens that REST and DICOMweb accept as Bearer; empty: none",
    )
    label: str = Field("Sign in with single sign-on", max_length=64, description="text of the button on the login page")

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

    enabled: bool = Field(True, description="serve HTTP")
    host: Host = Field("127.0.0.1", description="address to listen on; beyond loopback, every request needs an account")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0: any free port")
    authentication: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether requests need an account (`voxelnode account add`); auto: unless host is a loopback "
        "address without trusted_proxies. Choose always if a reverse proxy is not listed there, or the machine "
        "has several users",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description='host names by which clients reach us, such as ["pacs.example.org"], beside IP addresses, '
        "localhost and the name of this machine",
    )
    public_url: Annotated[str, StringConstraints(pattern=r"^(https?://[^/?#@\s]+(/[^?#\s]*[^/?#\s])?)?$")] = Field(
        "",
        description='beginning of every URL that is handed out, such as "https://pacs.example.org"; its host '
        "is allowed, too. Unset: the address of the request, with our port if its Host header names none and no "
        "proxy forwarded it",
    )
    cors_origins: tuple[Annotated[str, StringConstraints(pattern=r"^https?://[^/*]+$")], ...] = Field(
        (),
        description="other web sites whose scripts may send requests with a token, such as "
        '["https://viewer.example.org"]',
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted, such as "
        '["127.0.0.1"]; with any, every request needs an account unless authentication is never',
    )
    second_factor: Literal["", "admin", "all"] = Field(
        "",
        description="whose passwords need a second factor (authenticator app): administrators or all; empty: those "
        "who have set one up",
    )
    session_hours: float = Field(12, gt=0, le=720, description="time without a request after which a login ends")
    tls_certificate: Path | None = Field(
        None, description="PEM file of our certificate chain; if set, only HTTPS is served"
    )
    tls_key: Path | None = Field(None, description="PEM file of its private key; unset: in the file of the certificate")
    maximum_connections: int = Field(
        200,
        ge=4,
        le=10_000,
        description="simultaneous requests of identified callers, an eighth of them for administrators only; a "
        "further one replaces one whose client neither sends nor reads, or is answered 503. As many connections "
        "may have no such request; a new one replaces the oldest of the address that has most",
    )
    maximum_connections_per_address: int = Field(
        100, ge=1, le=10_000, description="simultaneous requests of identified callers from one address"
    )
    maximum_connections_per_account: int = Field(
        50, ge=1, le=10_000, description="simultaneous requests of one account that is not an administrator"
    )
    maximum_upload_bytes: int = Field(
        16_000_000_000,
        ge=1_000_000,
        description="largest body of a STOW-RS request, in bytes; a larger one is answered 413",
    )
    frame_cache_bytes: int = Field(
        2_000_000_000,
        ge=0,
        description="disk for compressed frames and rendered pictures, in bytes; those read longest ago go first. "
        "0: none are kept",
    )
    hook_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="addresses of this machine, or of its link (127.0.0.0/8, 169.254.0.0/16, ...), that hooks which "
        'administrators add may send to, such as ["127.0.0.1"]; hooks of the configuration may send anywhere',
    )
    oidc: Oidc = Field(Oidc(), description="accounts of an identity provider")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach us, judging by the configuration."""
        return is_loopback(self.host) and not self.trusted_proxies

    @property
    def needs_account(self) -> bool:
        """Whether requests need an account."""
        return self.authentication == "always" or (self.authentication == "auto" and not self.is_local)


class HookSettings(SettingsSection):
    """[hooks.NAME]: a receiver of messages about events, after their commit; set url, command, plugin or peer."""

    on: tuple[HookEvent, ...] = Field(min_length=1, description="events to send", examples=[["volume-written"]])
    url: str | None = Field(
        None,
        description="https or http address that each message is posted to, as JSON",
        examples=["https://pipeline.example.org/events"],
    )
    secret_file: Path | None = Field(
        None, description="file with the secret that signs messages: whsec_ and 24 to 64 bytes in base64"
    )
    ca_file: Path | None = Field(
        None,
        description="PEM file of a further CA that may have signed the receiver's certificate",
    )
    command: tuple[str, ...] = Field(
        (),
        description='program and arguments, without a shell, such as ["/usr/local/bin/segment", "{path}"]; the '
        "message is its standard input",
    )
    plugin: str | None = Field(None, description='name of an entry point in the group "voxelnode.plugins"')
    peer: str | None = Field(
        None,
        description="peer in [peers] with a host that gets an Instance Availability Notification of each quiet "
        "series or study",
    )
    calling_ae_titles: tuple[AETitle, ...] = Field(
        (), description="only events about instances of these senders; empty: all"
    )
    where: Where | None = Field(
        None,
        description='only events of series that fit, or of studies with one: { modality = "CT", slices = ">=50", '
        'verdict = "complete" }, or an expression (docs/select.md); unset: all',
    )
    include_patient: bool = Field(False, description="include ID, name, birth date and sex of the patient in messages")
    results: bool = Field(
        False,
        description="messages name a job that accepts results: masks, reports, documents (docs/results.md)",
    )
    job_seconds: Seconds = Field(
        86_400, description="time limit of a job from the 202 of a webhook to its outcome; needs results = true"
    )
    timeout_seconds: Seconds = Field(30, description="time limit of one attempt")
    attempts: int = Field(12, ge=1, le=1000, description="attempts to deliver a message before it is given up")

    _secret: str | None = None

    @property
    def secret(self) -> str | None:
        """What a hook that was added signs with: in no file, and no key, since keys are shown."""
        return self._secret

    def with_secret(self, secret: str | None) -> Self:
        """Return the hook with its secret."""
        copy = self.model_copy()
        copy._secret = secret
        return copy

    @property
    def kind(self) -> str:
        """The key that says who receives the messages."""
        return self._kinds()[0]

    def _kinds(self) -> list[str]:
        keys = ("url", "command", "plugin", "peer")
        return [key for key in keys if getattr(self, key) not in (None, ())]

    @property
    def receiver(self) -> str:
        """Who receives the messages, for people."""
        others = (("plugin", self.plugin), ("peer", self.peer))
        return self.url or next((f"{kind} {other}" for kind, other in others if other), " ".join(self.command))

    @property
    def host(self) -> str:
        """The host that messages go to by HTTP; empty: they do not."""
        return urlsplit(self.url or "").hostname or ""

    def _mistakes(self) -> Iterator[str]:
        if len(self._kinds()) != 1:
            yield "exactly one of url, command, plugin and peer must be given"
        if self.peer is not None and (self.include_patient or not set(self.on) <= {"series-quiet", "study-quiet"}):
            yield "peer is notified on series-quiet and study-quiet only, and without include_patient"
        if self.url is None and self.secret_file:
            yield "secret_file requires url"
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
                "frames there, or only the events volume-written, volume-superseded and study-quiet"
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
        if self.peer is not None:
            yield "a peer gives no results: leave results out"
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
        description="address of a DICOMweb server, to which instances are sent by STOW-RS",
        examples=["https://pacs.example.org/dicom-web"],
    )
    token_file: Path | None = Field(None, description="file with a token that is sent as Authorization: Bearer")
    ca_file: Path | None = Field(
        None, description="PEM file of a further CA that may have signed the server's certificate"
    )
    s3: str | None = Field(
        None,
        description="s3://BUCKET/PREFIX, into which DICOM files are written; needs: pip install 'voxelnode[s3]'",
    )
    endpoint: str | None = Field(
        None,
        description='address of the server of s3, such as "https://s3.example.org:9000"; unset: Amazon S3',
    )
    region: str | None = Field(None, description="region of the bucket; unset: AWS_REGION, or us-east-1")
    credentials_file: Path | None = Field(
        None,
        description="keys for s3, in a file as ~/.aws/credentials; unset: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "or the role of the machine",
    )
    folder: Path | None = Field(None, description="folder, which must exist, into which DICOM files are written")
    layout: Literal["names", "archive"] = Field(
        "names",
        description="names: PATIENT/STUDY/SERIES/INSTANCE, which name the patient; archive: as in the archive of "
        "the node, which name nobody",
    )
    bids: Path | None = Field(
        None,
        description="folder, which must exist, of a BIDS data set that grows with complete series; its route has no "
        "other destination",
    )
    rules: Path | None = Field(None, description="rules of the data set (docs/bids.md); unset: the default rules")
    key: Path | None = Field(
        None,
        description="file of the key of its pseudonyms; unset: bids.key in the root, which the first start makes",
    )
    timeout_seconds: Seconds = Field(60, description="longest wait for a server")

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
        description="event after which that instance is sent, or all of the series or study that the destination "
        "has not taken yet",
    )
    where: Where | None = Field(
        None,
        description='only series that fit: { modality = "CT", body_part = "CHEST" }, or an expression '
        "(docs/select.md); unset: all",
    )
    otherwise: tuple[HookName, ...] = Field(
        (),
        description="other routes with the same when: send only series that none of them selects",
    )
    to: tuple[str, ...] = Field(
        min_length=1,
        description="names of [peers] with a host, or of [destinations]; each receives everything by itself",
        examples=[["CLOUD"]],
    )
    priority: Literal["high", "medium", "low"] = Field(
        "medium",
        description="order among routes to one destination, and priority of C-STORE requests",
    )
    connections: int = Field(
        1,
        ge=1,
        le=16,
        description="connections to a destination at the same time; the instances of a series are sent in order "
        "on one of them",
    )
    between: Hours | None = Field(
        None,
        description='hours in which it sends, in the time zone of this machine, such as "20:00-06:00"; unset: always',
    )
    transfer_syntax: Literal["keep", "uncompressed", "jpeg2000-lossless"] = Field(
        "keep",
        description="encoding of the copies; keep: as stored; jpeg2000-lossless: of uncompressed images with one "
        "sample per pixel. A peer that does not accept it receives them uncompressed",
    )
    set: dict[str, str] = Field(
        {},
        description='attributes of the copies, by keyword, such as { InstitutionName = "", PatientID = '
        '"SITE1-{PatientID}" }; stored instances do not change',
    )
    replace: dict[str, str] = Field({}, description="the same, only for attributes that the original has")
    remove: tuple[str, ...] = Field(
        (), description='keywords, or tags such as "(0009,1010)", that the copies lack, at every level'
    )
    deidentify: HookName | None = Field(
        None,
        description="table [deidentify.NAME] by which the copies lose identities, before set, replace and remove; "
        "an instance that cannot be called clean is not sent (a dead letter)",
    )
    confirm: bool = Field(
        False,
        description="ask whether the destination keeps what it took (a peer: storage commitment; a DICOMweb "
        "server: a search; a folder or bucket: the file is read again), and send the rest again",
    )
    delete_confirmed: bool = Field(
        False,
        description="delete a series here once every destination has confirmed all of its instances, and no hook "
        "or other route waits for it; requires confirm",
    )
    return_to_sender: bool = Field(False, description="send a peer its own instances, too; false prevents loops")
    attempts: int = Field(
        12,
        ge=1,
        le=1000,
        description="attempts to send what a destination refuses or loses; one that cannot be reached is tried "
        "for ever",
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
    "priority", "connections", "transfer_syntax", "set", "replace", "remove", "confirm", "delete_confirmed",
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

_SERIES_EVENTS: tuple[HookEvent, ...] = ("series-quiet", "volume-written", "volume-superseded", "series-failed")
RESULT_EVENTS: tuple[HookEvent, ...] = ("series-quiet", "volume-written", "study-quiet")
"""Events to which a hook can give results."""

_VOLUME_EVENTS: tuple[HookEvent, ...] = ("volume-written", "volume-superseded", "study-quiet")
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

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level to log")
    format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, else json")
    file: Path | None = Field(
        None, description="file to which `serve` also writes the log, as JSON; readable by its owner only"
    )
    file_bytes: int = Field(
        10_000_000, ge=10_000, description="length at which the file is renamed to FILE.1, FILE.1 to FILE.2 and so on"
    )
    file_count: int = Field(5, ge=1, le=100, description="number of renamed files that are kept")


class IndexSettings(SettingsSection):
    """[index]: the database of the index."""

    url: str | None = Field(
        None,
        description='database of PostgreSQL, "postgresql://user@host/name" or, with a standby, '
        '"postgresql://user@host1,host2/name"; PGPASSWORD or a password file has the password. Unset: '
        "index.sqlite in the root",
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

    host: str | None = Field(None, description="name of this host, unique in the index; unset: the name of the machine")
    roles: tuple[Role, ...] = Field(
        ("receive", "convert", "web"),
        min_length=1,
        description="receive: the DICOM listener, hooks, routes, retention; convert: conversions; web: HTTP, if "
        "[web] enabled",
    )
    lease_seconds: float = Field(
        120.0,
        ge=4,
        le=3600,
        description="time after which other hosts take over the claims of a silent one",
    )
    announce_seconds: float = Field(
        0.0,
        ge=0,
        le=300,
        description="time for which a stopping host still accepts associations, while /readyz tells balancers "
        "that it stops",
    )
    finish_seconds: float = Field(
        10.0,
        ge=0,
        le=300,
        description="time after that for open associations; then each ends after the instance that is being received",
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
        (), description="extensions that are switched off; `voxelnode config check` names all"
    )


AddedTable = Literal["peers", "routes", "hooks", "retention"]
"""The tables beside which administrators may add something."""


@dataclass(frozen=True, slots=True)
class AddedRules:
    """The rules of retention that are in force, and the change that made them.

    `confirmed`: how many studies the first pass may delete within a day. `unconfirmed`: why nobody has confirmed the
    rules as they are now, so that nothing is deleted by them; None: somebody has.
    """

    rules: RetentionSettings
    change: dt.datetime
    confirmed: int = 0
    unconfirmed: str | None = None

    def is_recent(self, now: dt.datetime) -> bool:
        """Return whether what was confirmed still holds: an index that is built anew does not know that it was used."""
        return abs(now - self.change) < dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Added:
    """What administrators added beside the configuration.

    `unusable`: by table, the names of what breaks a rule by now, such as for a peer that is gone, and why. It does
    nothing, and keeps what waits for it.
    """

    peers: Mapping[str, Peer] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)
    hooks: Mapping[str, HookSettings] = field(default_factory=dict)
    retention: AddedRules | None = None
    unusable: Mapping[AddedTable, Mapping[str, str]] = field(default_factory=dict)

    def of(self, table: AddedTable) -> Mapping[str, Any]:
        """Return what was added beside a table of names."""
        found: Mapping[str, Any] = getattr(self, table)
        return found

    def unusable_in(self, table: AddedTable) -> Mapping[str, str]:
        """Return the names in a table of what cannot be used, and why."""
        return self.unusable.get(table, {})

    def having(self, table: AddedTable, now: Any) -> Added:
        """Return this with something else beside a table."""
        changed: dict[str, Any] = {table: now}
        return replace(self, **changed)


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

    _loaded_from: tuple[Path | None, Mapping[str, str]] = (None, {})
    _own: Mapping[AddedTable, Any] | None = None
    _added: Added | None = None
    _followers: list[Callable[[], None]] = PrivateAttr(default_factory=list)

    def note_origins(self, file: Path | None, origins: Mapping[str, str]) -> None:
        """Note from where the values are; see `node.settings.load.Configuration`."""
        self._loaded_from = file, origins

    @property
    def loaded_from(self) -> tuple[Path | None, Mapping[str, str]]:
        """The file that was read, and the origins of the values."""
        return self._loaded_from

    def own(self, table: AddedTable) -> Any:
        """Return a table as the configuration has it, without what was added beside it."""
        return getattr(self, table) if self._own is None else self._own[table]

    @property
    def added(self) -> Added:
        """What was added beside the configuration."""
        return self._added or Added()

    def add(self, added: Added) -> None:
        """Have this beside the configuration, whose names and keys take precedence, and nothing else.

        The mappings are replaced, so that who goes through them meets no change; then everybody follows.
        """
        self._have(added)
        for follow in self._followers:
            follow()

    def follow(self, follow: Callable[[], None]) -> None:
        """Call `follow` each time that what was added may have changed."""
        self._followers.append(follow)

    def _have(self, added: Added) -> None:
        self._own = {table: self.own(table) for table in get_args(AddedTable)}
        self._added = added
        now = self.__dict__
        now["peers"] = {**added.peers, **self.own("peers")}
        tables: tuple[AddedTable, ...] = ("routes", "hooks")
        for table in tables:
            own = self.own(table)
            now[table] = {**own, **{name: one for name, one in added.of(table).items() if name not in own}}
        now["retention"] = added.retention.rules if added.retention is not None else self.own("retention")

    def mistakes(self) -> list[str]:
        """Return the rules that are broken by now, since something was added."""
        return list(self._mistakes())

    def having(self, added: Added) -> Self:
        """Return a copy with this beside the configuration."""
        copy = self.model_copy()
        copy._have(added)
        return copy

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
            peer = self.peers.get(hook.peer) if hook.peer is not None else None
            if hook.peer is not None and (peer is None or peer.host is None):
                yield f"hooks.{name}: peer must be the name of a peer in [peers] that has a host"
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
