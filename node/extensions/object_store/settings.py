"""[destinations.NAME] of the kind s3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from node.settings.routes import DestinationSettings, Layout
from node.settings.storage import BUCKET, mistakes_of_endpoint


class BucketSettings(DestinationSettings):
    """[destinations.NAME]: a bucket that gets DICOM files."""

    kind: Literal["s3"] = "s3"
    s3: str = Field(description="s3://BUCKET/PREFIX that gets DICOM files (extra `s3`).")
    endpoint: str | None = Field(None, description="Server as an https:// address; unset: Amazon S3.")
    region: str | None = Field(None, description="Region of the bucket; unset: AWS_REGION, or us-east-1.")
    credentials_file: Path | None = Field(
        None,
        description="Keys, like ~/.aws/credentials; unset: the environment, or the role of the machine.",
    )
    ca_file: Path | None = Field(None, description="PEM file of another CA for the server's certificate.")
    layout: Layout = "names"

    def _mistakes(self) -> Iterator[str]:
        if not BUCKET.fullmatch(self.s3):
            yield "s3 must be s3://BUCKET or s3://BUCKET/PREFIX"
        if self.endpoint is not None:
            yield from mistakes_of_endpoint(self.endpoint)
