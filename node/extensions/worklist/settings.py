"""``[worklist]`` of the configuration."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pydantic import Field

from node.settings.section import AETitle, Days, Host, SettingsSection


class WorklistSettings(SettingsSection):
    """[worklist]: scheduled procedure steps for modalities, and the performed ones that they report."""

    folder: Path | None = Field(
        None, description="Folder with worklist entries as DICOM (.wl) or DICOM JSON (.json) files; unset: none."
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
        description="TCP port for orders by HL7 v2 (ORM, OMI) over MLLP; 0: any free port; unset: none.",
    )
    hl7_host: Host = Field("127.0.0.1", description="Address to listen on for HL7.")
    hl7_tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate chain for HL7; if set, only TLS connections are accepted."
    )
    hl7_tls_key: Path | None = Field(
        None, description="PEM file of its private key; unset: in the file of the certificate."
    )
    hl7_tls_client_ca: Path | None = Field(
        None,
        description="PEM file of the CAs whose client certificates senders of HL7 must show; unset: they need none.",
    )
    hl7_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description='Networks that may send HL7, such as ["10.1.2.0/24"]; empty: this machine only.'
    )
    hl7_station_by_modality: dict[str, AETitle] = Field(
        {}, description='Station of an order that names none, such as { CT = "CT1", MR = "MR1" }.'
    )
