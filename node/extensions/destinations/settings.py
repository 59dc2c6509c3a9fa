"""[destinations.NAME] of the kinds dicomweb and folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field

from node.api import DestinationSettings, Layout, is_loopback


class DicomwebSettings(DestinationSettings):
    """[destinations.NAME]: a DICOMweb server that gets instances by STOW-RS."""

    kind: Literal["dicomweb"] = "dicomweb"
    url: str = Field(description="Address of the server.", examples=["https://pacs.example.org/dicom-web"])
    token_file: Path | None = Field(None, description="File with a token that is sent as Authorization: Bearer.")
    ca_file: Path | None = Field(None, description="PEM file of another CA for the server's certificate.")

    @property
    def address(self) -> str:
        """The address of the server."""
        return self.url

    def _mistakes(self) -> Iterator[str]:
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
            yield "url must begin with https:// or http:// and name a host, without query or fragment"
        if parts.username or parts.password:
            yield "url must not contain a user name or password: use token_file"
        if parts.scheme == "http" and self.token_file and not is_loopback(parts.hostname or ""):
            yield "token_file needs an https:// url, unless the host is this machine"


class FolderSettings(DestinationSettings):
    """[destinations.NAME]: a folder that gets DICOM files."""

    kind: Literal["folder"] = "folder"
    folder: Path = Field(description="Folder that gets DICOM files; it must exist.")
    layout: Layout = "names"

    @property
    def folder_of(self) -> Path:
        """The folder."""
        return self.folder
