"""[dicom] and [peers]: the listener, and who may call it or is called."""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field

from node.errors import nearest
from node.registry import verbs
from node.settings.section import AETitle, Host, PeerTitle, Seconds, SettingsSection

if TYPE_CHECKING:
    Verb = str
else:
    Verb = Literal[verbs()]
READING_VERBS: frozenset[Verb] = frozenset({"echo", "query", "retrieve"})
"""Services that only read the index."""

FINGERPRINT = "sha256:"
"""Prefix of the fingerprint of a certificate."""

NO_RIGHT = "no right"
"""The mark of a key of a peer that gives a caller nothing and keeps it from nothing; any other is a restriction."""


class Dicom(SettingsSection):
    """[dicom]: the DICOM listener."""

    enabled: bool = Field(True, description="Accept associations.")
    ae_title: AETitle = Field("VOXELNODE", description="AE title of the node.")
    host: Host | None = Field(
        None, description="Address to listen on; unset: 127.0.0.1, or all addresses if [peers] are configured."
    )
    open: bool = Field(
        False, description="Listen beyond this machine without [peers]: anyone who reaches the port may store."
    )
    port: int = Field(11112, ge=0, le=65535, description="TCP port; 0: any free port.")
    tls_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="A second TCP port, which takes TLS connections alone, and `port` plain ones; unset: with "
        "tls_certificate, `port` takes TLS.",
    )
    acceptor: Literal["node", "pynetdicom"] = Field(
        "node", description="What accepts associations; that of pynetdicom is slower and has no TLS"
    )
    require_called_ae_title: bool = Field(False, description="Reject associations that call a different AE title.")
    called_ae_titles: tuple[PeerTitle, ...] = Field(
        (), description="AE titles by which the node may be called beside ae_title, with require_called_ae_title."
    )
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
        None,
        description="PEM file of the certificate chain; if set, only TLS is accepted, on tls_port or else on port.",
    )
    tls_key: Path | None = Field(
        None, description="PEM file of its private key; unset: in the file of the certificate."
    )
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the CAs whose client certificates are required; unset: clients need none."
    )

    @property
    def titles(self) -> tuple[str, ...]:
        """The AE titles by which the node may be called."""
        return (self.ae_title, *self.called_ae_titles)

    def _mistakes(self) -> Iterator[str]:
        if self.tls_port is not None and self.tls_certificate is None:
            yield "tls_port needs tls_certificate: what the node shows there"
        if self.called_ae_titles and not self.require_called_ae_title:
            yield "called_ae_titles needs require_called_ae_title = true: without it, every AE title may be called"


class Peer(SettingsSection):
    """[peers.NAME]: an application entity that may call us, or that we call. Once there is one, others are rejected."""

    ae_title: Annotated[PeerTitle, NO_RIGHT] = Field(
        description="AE title of the peer, as caller and when called.", examples=["CT1"]
    )
    networks: tuple[IPv4Network | IPv6Network, ...] | None = Field(
        None, description='Networks that it may call from, such as ["10.1.2.0/24"]; unset: any.'
    )
    host: Annotated[Host | None, NO_RIGHT] = Field(
        None, description="Address where it listens, for C-MOVE to it, commitment reports, routes and commands."
    )
    port: Annotated[int, NO_RIGHT] = Field(104, ge=1, le=65535, description="TCP port where it listens.")
    may: tuple[Verb, ...] = Field(get_args(Verb), description="Services that it may use")
    takes: tuple[str, ...] | None = Field(
        None,
        description='SOP classes that the node takes from it, by keyword or UID of PS3.6, such as ["CTImageStorage"]; '
        "unset: all.",
    )
    projects: tuple[str, ...] | None = Field(
        None, description="Projects whose series it may query and retrieve; unset: the whole index."
    )
    tls: Annotated[bool, NO_RIGHT] = Field(
        False, description="Call it over TLS, with [dicom] tls_certificate as client certificate."
    )
    tls_ca: Annotated[Path | None, NO_RIGHT] = Field(
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
    confirm_by_find: Annotated[bool | None, NO_RIGHT] = Field(
        None,
        description="Ask it by C-FIND how many instances its series have; unset: before a conversion, if it has a "
        "host; true: also while a series waits.",
        examples=[False],
    )
    associations: int | None = Field(
        None,
        ge=1,
        le=500,
        description="Associations that it may have at once, however many its address has, as gateways behind one "
        "address need; unset: 16 of an address, 32 of a peer. Needs networks or a certificate.",
        examples=[40],
    )
    releases: Annotated[bool, NO_RIGHT] = Field(
        True, description="false: it never releases its associations, so their end says nothing about its series."
    )

    @cached_property
    def taken_classes(self) -> frozenset[str] | None:
        """The UIDs of the SOP classes that the node takes from it; None: all."""
        from node.dicom.uids import storage_class  # here and below: most commands need no pydicom

        return frozenset(map(storage_class, self.takes)) if self.takes is not None else None

    @property
    def shown(self) -> str | None:
        """The certificate that it must show; a fingerprint has many spellings."""
        named = self.certificate or ""
        return named.replace(":", "").lower() if named.startswith(FINGERPRINT) else self.certificate

    def may_be(self, other: "Peer") -> bool:
        """Return whether one caller may be both peers."""
        if self.ae_title != other.ae_title or (self.certificate and other.certificate and self.shown != other.shown):
            return False
        pairs = ((one, another) for one in self.networks or () for another in other.networks or ())
        overlaps = any(one.version == another.version and one.overlaps(another) for one, another in pairs)
        return not self.networks or not other.networks or overlaps

    @property
    def is_asked(self) -> bool:
        """Whether it is asked by C-FIND what it has of its series."""
        return self.host is not None and self.confirm_by_find is not False

    def _mistakes(self) -> Iterator[str]:
        if self.associations and not (self.networks or self.certificate):
            yield "associations needs networks or certificate: without one, anybody could take them"
        if self.takes:
            from node.dicom.uids import storage_class, storage_classes

            for name in self.takes:
                if not storage_class(name):
                    meant = nearest(name, storage_classes(), "PS3.6 Annex A")
                    yield f"takes: {name!r} is not the keyword or UID of a storage SOP class{meant}"
        digits = (self.certificate or "").removeprefix(FINGERPRINT).replace(":", "")
        if (self.certificate or "").startswith(FINGERPRINT) and not re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
            yield f"certificate must be {FINGERPRINT} and 64 hexadecimal digits, or a name"
        if self.confirm_by_find and self.host is None:
            yield "confirm_by_find needs host: where the peer listens"
        if self.projects and (others := set(self.may) - READING_VERBS):
            others_named = ", ".join(sorted(others))
            yield f"a peer with projects only reads: take {others_named} out of may, or give them to another AE title"


RESTRICTIONS = tuple(key for key, field in Peer.model_fields.items() if NO_RIGHT not in field.metadata)
"""The keys of a peer that say who is this peer, and what it may."""


def contradictions(peers: Mapping[str, Peer]) -> Iterator[str]:
    """Yield the pairs of peers that one caller may be, and of which each would lift what the other restricts."""
    for (one, first), (other, second) in combinations(peers.items(), 2):
        if first.may_be(second) and (keys := [key for key in RESTRICTIONS if _says(first, key) != _says(second, key)]):
            yield (
                f"peers.{other}: has the AE title of [peers.{one}] and may be the same caller, but differs in "
                f"{', '.join(keys)}: give both the same, or networks or certificates by which they differ"
            )


def _says(peer: Peer, key: str) -> object:
    value = {"certificate": peer.shown, "takes": peer.taken_classes}.get(key, getattr(peer, key))
    return frozenset(value) if isinstance(value, tuple) else value
