"""What the worker on a job reports, in REST (`node.web.api.models`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from node.extensions.results.manifest import Algorithm, ManifestResult


class JobProgress(BaseModel):
    """How far a job is; what is left out stays as it was."""

    model_config = ConfigDict(extra="forbid")

    percent: Annotated[int | None, Field(ge=0, le=100)] = None
    detail: Annotated[str | None, Field(max_length=1000)] = None


class JobOutcome(BaseModel):
    """The end of a job.

    `results` say what its files are; unset: a file results.json does or, without it, their names do.
    """

    model_config = ConfigDict(extra="forbid")

    state: Literal["succeeded", "failed"]
    detail: Annotated[str | None, Field(max_length=1000)] = None
    results: Annotated[list[ManifestResult] | None, Field(max_length=64)] = None
    algorithm: Algorithm | None = None
