"""``[worklist]`` of the configuration."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pydantic import Field

from node.settings.section import AETitle, Days, Host, SettingsSection


class WorklistSettings(SettingsSection):
    """[worklist]: scheduled procedure steps for modalities, and the performed ones that they report."""

    folder: Path | None = Field(
        None, description="folder with files of worklist entries: DICOM (.wl) or DICOM JSON (.json); unset: none"
    )
    keep_days: Days = Field(
        30,
        description="days after which are removed: entries of REST and HL7, from the day of their start; "
        "performed procedure steps, from their last message",
    )
    hl7_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="TCP port for orders by HL7 v2 (ORM, OMI) over MLLP; 0: any free port; unset: none",
    )
    hl7_host: Host = Field("127.0.0.1", description="address to listen on for HL7")
    hl7_tls_certificate: Path | None = Field(
        None, description="PEM file of our certificate chain for HL7; if set, only TLS connections are accepted there"
    )
    hl7_tls_key: Path | None = Field(
        None, description="PEM file of its private key; unset: in the file of the certificate"
    )
    hl7_tls_client_ca: Path | None = Field(
        None,
        description="PEM file of the CAs whose client certificates senders of HL7 must show; unset: they need none",
    )
    hl7_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description='networks that may send HL7, such as ["10.1.2.0/24"]; empty: this machine only'
    )
    hl7_maximum_connections: int = Field(
        64,
        ge=1,
        le=500,
        description="simultaneous connections that have sent a message; a further one replaces an idle one. As "
        "many may be without a message; a new one replaces the oldest of the address that has most",
    )
    hl7_maximum_connections_per_address: int = Field(
        16, ge=1, le=500, description="simultaneous connections from one address that have sent a message"
    )
    hl7_station_by_modality: dict[str, AETitle] = Field(
        {}, description='AE title of the station of an order that names none, such as { CT = "CT1", MR = "MR1" }'
    )
