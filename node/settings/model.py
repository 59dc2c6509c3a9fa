"""Every default, unit and check of the configuration, in one typed model.

Read once; each part of the node receives its own section, never the file or the environment. The order of
precedence is flags, then ``VOXELNODE_SECTION__KEY``, then the TOML file, then the defaults here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

AETitle = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[ -\[\]-~]+$")
]
"""An AE title, PS3.5 6.2: 1 to 16 characters, no backslash, no control characters; spaces around it do not count."""

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
Days = Annotated[float, Field(gt=0, le=36525)]
OverwritePolicy = Literal["never", "replace", "keep_both"]
Verb = Literal["echo", "store", "query", "retrieve", "commit"]
VolumeFormat = Literal["nifti", "nifti-pair", "analyze", "mhd", "npz"]
HookEvent = Literal[
    "instance-stored", "series-quiet", "volume-written", "volume-superseded", "series-failed", "study-quiet"
]
HookName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, nothing changes after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Storage(Section):
    """[storage]: where everything lies."""

    root: Path = Field(Path("voxelnode-data"), description="folder of the archive, the index and the volumes")
    reserve_bytes: int = Field(
        2_000_000_000, ge=0, description="free bytes that must remain on the disk; below it stores are answered 0xA700"
    )
    low_bytes: int = Field(
        4_000_000_000, ge=0, description="free bytes below which new associations are rejected, while open ones go on"
    )
    overwrite_policy: OverwritePolicy = Field(
        "never",
        description="other bytes under a SOP Instance UID that is here; never: the first stays, the second goes to "
        "quarantine; replace: the other way round; keep_both: the first stays, the second is kept in the archive too",
    )


class Dicom(Section):
    """[dicom]: the listener."""

    ae_title: AETitle = Field("VOXELNODE", description="our AE title")
    host: str | None = Field(
        None, description="address to listen on; unset: 127.0.0.1, or every address once [peers] are configured"
    )
    port: int = Field(11112, ge=0, le=65535, description="TCP port; 0 takes a free one")
    require_called_ae_title: bool = Field(False, description="reject associations that call us by another AE title")
    maximum_pdu_bytes: int = Field(131072, ge=4096, le=1048576, description="largest PDU that we announce and accept")
    maximum_associations: int = Field(64, ge=1, le=500, description="connections at once, from all addresses")
    maximum_associations_per_address: int = Field(16, ge=1, le=500, description="connections at once from one address")
    maximum_instance_bytes: int = Field(
        16_000_000_000, ge=1024, description="largest data set; a larger one is answered 0xA700"
    )
    request_seconds: Seconds = Field(10, description="from connecting until the A-ASSOCIATE-RQ is whole")
    pdu_seconds: Seconds = Field(30, description="from the first byte of a PDU until it is whole")
    response_seconds: Seconds = Field(
        60, description="longest wait for a peer that we ask: its acceptance, and each of its answers"
    )
    idle_seconds: Seconds = Field(300, description="without a PDU, after which an association is aborted")
    drain_seconds: Seconds = Field(20, description="time that open associations get when the node stops")
    maximum_pending_connections: int = Field(
        128, ge=1, le=1000, description="connections that have not asked for an association; the oldest gives way"
    )
    maximum_request_bytes: int = Field(131072, ge=4096, le=1048576, description="largest A-ASSOCIATE-RQ")
    maximum_query_results: int = Field(
        100_000, ge=100, le=10_000_000, description="most answers to one C-FIND; a query with more is answered 0xA700"
    )
    fast_path: bool = Field(
        True, description="serve C-STORE while it arrives; false: by pynetdicom, each instance held in memory"
    )
    maximum_retrieves: int = Field(4, ge=1, le=100, description="C-MOVE and C-GET operations at once; more wait")
    commitment_attempts: int = Field(
        10, ge=1, le=1000, description="tries to report the result of a storage commitment before it is given up"
    )
    commitment_retry_seconds: Seconds = Field(
        60, description="wait before the second try; doubles with each further one, up to an hour"
    )
    tls_certificate: Path | None = Field(None, description="PEM file of our certificate chain; set: TLS only")
    tls_key: Path | None = Field(None, description="PEM file of its private key; unset: in the same file")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the authorities whose client certificates we require; unset: none required"
    )


class Peer(Section):
    """[peers.NAME]: an application entity that may talk to us. With any peer configured, all others are refused."""

    ae_title: AETitle = Field(description="its AE title, as it calls itself", examples=["CT1"])
    networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description='addresses it may come from, such as ["10.1.2.0/24"]; empty: any'
    )
    host: str | None = Field(None, description="address where it listens itself, for asking it")
    port: int = Field(104, ge=1, le=65535, description="TCP port where it listens")
    may: tuple[Verb, ...] = Field(
        get_args(Verb),
        description="what it may ask of us: echo, store, query (C-FIND), retrieve (C-MOVE and C-GET), and commit "
        "(storage commitment)",
    )
    tls: bool = Field(False, description="associate with it over TLS; shows [dicom] tls_certificate, if there is one")
    tls_ca: Path | None = Field(
        None, description="PEM file of the authorities that sign its certificate; unset: those of the system"
    )
    confirm_by_find: bool = Field(
        False, description="ask it by C-FIND how many instances its series have, and convert as soon as all are here"
    )

    @model_validator(mode="after")
    def _can_be_asked(self) -> Peer:
        if self.confirm_by_find and self.host is None:
            raise ValueError("confirm_by_find needs host: where the peer listens")
        return self


class Series(Section):
    """[series]: when a series is quiet."""

    quiet_seconds: Seconds = Field(60, description="without a new instance, after which a series is converted")
    quiet_seconds_by_calling_ae_title: dict[str, Seconds] = Field(
        {}, description="the same for single senders, such as { SLOWPACS = 300 }"
    )
    aborted_grace_seconds: Seconds = Field(
        300, description="the same after an association that was not released: its sender may come back"
    )
    force_complete_after_seconds: Seconds = Field(
        5400, description="since the first instance, after which a series is converted although more still come"
    )
    study_quiet_seconds: Seconds = Field(
        900, description="since the last conversion, after which a study is quiet, if none of its series is open"
    )


class Convert(Section):
    """[convert]: what becomes of a quiet series."""

    formats: tuple[VolumeFormat, ...] = Field(("nifti", "mhd"), min_length=1, description="files written of a volume")
    compress: bool = Field(True, description=".nii.gz and .zraw rather than .nii and .raw")
    thumbnails: bool = Field(True, description="a PNG of the middle slice beside each volume")
    thumbnail_pixels: int = Field(256, ge=16, le=4096, description="longest side of a thumbnail")
    previews: bool = Field(False, description="a PNG of three orthogonal planes beside each volume")
    projections: bool = Field(False, description="PNGs of the MIP and the MinIP along three axes; of a head, a face")
    montages: bool = Field(False, description="a PNG of many slices beside each volume")
    montage_step: int = Field(5, ge=1, description="a montage shows every so manieth slice")
    body_masks: bool = Field(False, description="a label volume of the body beside each CT")
    suv: bool = Field(False, description="a volume of standardised uptake values (body weight) beside each PET")
    workers: int = Field(1, ge=1, le=64, description="series converted at once, each in its own process")
    memory_bytes: int = Field(8_000_000_000, ge=500_000_000, description="address space of one conversion")
    cpu_seconds: int = Field(900, ge=1, description="processor time of one conversion")
    deadline_seconds: Seconds = Field(1800, description="wall time of one conversion")
    attempts: int = Field(3, ge=1, le=100, description="tries of a crashed conversion before the series is set aside")
    retry_seconds: Seconds = Field(30, description="wait before the second try; doubles with each further one")
    keep_superseded_hours: float = Field(
        24, ge=0, description="time that the files of a conversion stay after a newer one took its place"
    )


class Retention(Section):
    """[retention]: what is deleted by itself, whole studies only; by default nothing ever is."""

    days: Days | None = Field(
        None, description="after which a study that has not grown is deleted with all that was made of it; unset: never"
    )
    days_by_calling_ae_title: dict[str, Days | Literal["never"]] = Field(
        {}, description='the same for single senders, such as { CT1 = 30, RESEARCH = "never" }'
    )
    maximum_studies: int | None = Field(
        None, ge=1, description="how many studies are kept; the one that has not grown for longest goes; unset: all"
    )
    only_converted: bool = Field(
        True, description="keep a study while a series of it waits for its conversion, was refused or failed"
    )
    dry_run: bool = Field(False, description="only tell in the log what would be deleted")

    @property
    def is_active(self) -> bool:
        """Whether any rule may let something go."""
        return self.days is not None or bool(self.days_by_calling_ae_title) or self.maximum_studies is not None


class Audit(Section):
    """[audit]: who stored, deleted and changed what: audit.jsonl in the root; it names patients."""

    syslog: str | None = Field(
        None, description="where every line goes too: HOST:PORT (UDP), or the path of a socket such as /dev/log"
    )


class Web(Section):
    """[web]: pages, REST and DICOMweb over HTTP."""

    enabled: bool = Field(True, description="serve them at all")
    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback every request needs an account")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0 takes a free one")
    authentication: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether requests need an account (`voxelnode account add`); auto: unless host is loopback; "
        "always: behind a reverse proxy, and on a machine that several people use",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description='names under which clients reach us, such as ["pacs.example.org"]; IP addresses, localhost and the '
        "name of this machine always are",
    )
    cors_origins: tuple[Annotated[str, StringConstraints(pattern=r"^https?://[^/*]+$")], ...] = Field(
        (),
        description='web pages elsewhere whose scripts may ask us with a token, such as ["https://viewer.example.org"]',
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="addresses of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, such as "
        '["127.0.0.1"]; with any, every request needs an account unless authentication is never',
    )
    session_hours: float = Field(12, gt=0, le=720, description="time without a request, after which a login is over")
    tls_certificate: Path | None = Field(None, description="PEM file of our certificate chain; set: HTTPS only")
    tls_key: Path | None = Field(None, description="PEM file of its private key; unset: in the same file")
    maximum_connections: int = Field(200, ge=4, le=10_000, description="connections at once; more are answered 503")
    maximum_connections_per_address: int = Field(
        100, ge=2, le=10_000, description="connections at once from one address that is none of trusted_proxies"
    )
    maximum_upload_bytes: int = Field(
        16_000_000_000, ge=1_000_000, description="largest body of a STOW-RS request; a larger one is answered 413"
    )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach us, as far as the configuration tells."""
        return is_loopback(self.host) and not self.trusted_proxies

    @property
    def needs_account(self) -> bool:
        """Whether requests need an account."""
        return self.authentication == "always" or (self.authentication == "auto" and not self.is_local)


class Hook(Section):
    """[hooks.NAME]: who is told what happened once it is committed, by exactly one of url, command and plugin."""

    on: tuple[HookEvent, ...] = Field(min_length=1, description="what is told", examples=[["volume-written"]])
    url: str | None = Field(
        None,
        description="address that a JSON message is posted to, https or http",
        examples=["https://pipeline.example.org/told"],
    )
    secret_file: Path | None = Field(
        None, description="file with the secret that messages are signed with: whsec_ and 24 to 64 bytes in base64"
    )
    ca_file: Path | None = Field(
        None, description="PEM file of an authority that signed the certificate of the url, besides those of the system"
    )
    command: tuple[str, ...] = Field(
        (),
        description="program and arguments, run without a shell, such as "
        '["/usr/local/bin/segment", "{path}"]; the message is its standard input',
    )
    plugin: str | None = Field(None, description='name of an entry point in the group "voxelnode.plugins"')
    calling_ae_titles: tuple[AETitle, ...] = Field((), description="only of what these senders sent; empty: of all")
    include_patient: bool = Field(False, description="whether messages name the patient")
    timeout_seconds: Seconds = Field(30, description="for one attempt, after which it has failed")
    attempts: int = Field(12, ge=1, le=1000, description="tries before a message is given up")
    retry_seconds: Seconds = Field(
        10, description="wait before the second try; doubles with each further one, up to an hour"
    )
    maximum_per_second: float = Field(50, gt=0, le=10000, description="messages a second at most")

    @model_validator(mode="after")
    def _has_one_way_to_tell(self) -> Hook:
        if [self.url is not None, bool(self.command), self.plugin is not None].count(True) != 1:
            raise ValueError("exactly one of url, command and plugin must be given")
        if self.url is None and (self.secret_file or self.ca_file):
            raise ValueError("secret_file and ca_file belong to a url")
        return self

    @model_validator(mode="after")
    def _reaches_an_address(self) -> Hook:
        if self.url is None:
            return self
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError("url must begin with https:// or http:// and name a host")
        if parts.username or parts.password:
            raise ValueError("url must hold no password: messages are signed with secret_file instead")
        if parts.scheme == "http" and self.include_patient and not is_loopback(parts.hostname):
            raise ValueError("include_patient needs an https:// url, unless the host is this machine")
        return self

    @model_validator(mode="after")
    def _names_placeholders(self) -> Hook:
        for name in {name for argument in self.command for name in PLACEHOLDER.findall(argument)}:
            events = PLACEHOLDERS.get(name)
            if events is None:
                raise ValueError(f"unknown placeholder {{{name}}} in command; known: {', '.join(PLACEHOLDERS)}")
            if lacking := [event for event in self.on if event not in events]:
                raise ValueError(f"{{{name}}} in command is not told of {', '.join(lacking)}")
        if self.command and PLACEHOLDER.search(self.command[0]):
            raise ValueError("the program in command must be the same for every message")
        return self


PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
"""Stands in the command of a hook for a value of the message."""

_OF_SERIES: tuple[HookEvent, ...] = ("series-quiet", "volume-written", "volume-superseded", "series-failed")
PLACEHOLDERS: Mapping[str, tuple[HookEvent, ...]] = {
    "id": get_args(HookEvent),
    "event": get_args(HookEvent),
    "study_instance_uid": get_args(HookEvent),
    "series_instance_uid": ("instance-stored", *_OF_SERIES),
    "sop_instance_uid": ("instance-stored",),
    "revision": _OF_SERIES,
    "path": ("instance-stored", "volume-written"),
    "folder": ("volume-written",),
}
"""Which there are, and of which events they are told."""


class Log(Section):
    """[log]: the diagnostic log, on standard error; it never holds patient data."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level that is shown")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console on a terminal, else JSON lines"
    )


class Settings(Section):
    """The whole configuration."""

    storage: Storage = Storage()
    dicom: Dicom = Dicom()
    peers: dict[str, Peer] = {}
    series: Series = Series()
    convert: Convert = Convert()
    retention: Retention = Retention()
    audit: Audit = Audit()
    web: Web = Web()
    hooks: dict[HookName, Hook] = {}
    log: Log = Log()

    @property
    def bind_host(self) -> str:
        """The address to listen on: loopback only, unless it is asked for or peers are configured."""
        return self.dicom.host or ("0.0.0.0" if self.peers else "127.0.0.1")
