"""REST: links to studies."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from node.extensions.shares.actions import MAX_DAYS
from node.extensions.shares.rows import ReadShares
from node.index.database.reading import ReadIndex
from node.index.nouns.accounts import Role
from node.web.access import WRITERS, Call, CurrentCall
from node.web.api.changes import Change
from node.web.api.models import Moment, Resource, RowId
from node.web.api.resources import StudyUid
from node.web.api.routing import OF_CHANGES, api_router, problems
from node.web.audit_trail import of_study
from node.web.credentials import digest, new_token
from node.web.errors import Forbidden, ResourceNotFound
from node.web.principal import has_token

router = api_router(WRITERS, "shares")

ShareNumber = Annotated[RowId, Path(description="number of the link")]


class ShareResource(Resource):
    """A link, without its secret; `series` is empty if it shows the whole study.

    `deidentification` is the name of the de-identification of all that it shows; null: it shows what was received.
    """

    id: RowId
    study: str
    series: str
    may_download: bool
    deidentification: str | None
    made_by: str
    made_at: Moment
    expires_at: Moment
    uses: int
    used_at: Moment | None


class Shares(Resource):
    """Links, newest first."""

    items: list[ShareResource]


class NewShare(BaseModel):
    """A link to make."""

    model_config = ConfigDict(extra="forbid")

    days: Annotated[int, Field(ge=1, le=MAX_DAYS)] = 14
    series_instance_uid: Annotated[str, Field(max_length=64)] = ""
    download: bool = False
    deidentification: Annotated[str | None, Field(max_length=64)] = None


class MadeShare(Resource):
    """A link that was made; its `path` is shown only now."""

    id: RowId
    path: str
    expires_at: Moment


class RevokedShare(Resource):
    """The number that a link had."""

    removed: RowId


@router.get("/studies/{study_instance_uid}/shares", responses=problems())
def list_shares(call: CurrentCall, study_instance_uid: StudyUid) -> Shares:
    """The links to a study, with how often each was used."""
    with call.node.index.reading() as index:
        patient_id = index.studies.patient_id(study_instance_uid)
        items = [ShareResource.of(asdict(one)) for one in index.repository(ReadShares).listed(study_instance_uid)]
    call.audit.accessed([of_study(study_instance_uid, patient_id)], "links")
    return Shares(items=items)


@router.post("/studies/{study_instance_uid}/shares", status_code=201, responses=problems(*OF_CHANGES))
def make_share(call: CurrentCall, study_instance_uid: StudyUid, wanted: NewShare) -> MadeShare:
    """Make a link to a study, or to one of its series: whoever has it sees who the patient is.

    A token makes no link: whoever finds it would have a link that lasts.
    """
    if has_token(call.request.headers):
        raise Forbidden(
            "a token makes no link: sign in with a browser, send name and password, or run `voxelnode share`"
        )
    return made_share(call, study_instance_uid, wanted)


def made_share(call: Call, study_instance_uid: str, wanted: NewShare) -> MadeShare:
    """Make a link in the name of an account; only the answer has its secret."""
    token = new_token()
    made = call.act(
        "make-share",
        sha256=digest(token),
        study=study_instance_uid,
        days=wanted.days,
        series=wanted.series_instance_uid,
        download=wanted.download,
        deidentification=wanted.deidentification or None,
    )
    return MadeShare(id=made["id"], path=f"/shared/{token}", expires_at=made["expires_at"])


@router.delete("/shares/{share}", responses=problems(*OF_CHANGES))
def revoke_share(call: CurrentCall, change: Change, share: ShareNumber) -> RevokedShare:
    """Revoke a link of one's own at once; administrators revoke any."""
    any_account = call.account.role == Role.ADMIN

    def current(index: ReadIndex) -> ShareResource:
        found = next((one for one in index.repository(ReadShares).listed() if one.id == share), None)
        if found is None or not (any_account or found.made_by == call.account.name):
            raise ResourceNotFound("link")
        return ShareResource.of(asdict(found))

    def act(_: object) -> RevokedShare:
        with call.node.index.reading() as index:
            current(index)
        return RevokedShare.model_validate(call.act("revoke-share", number=share, any_account=any_account))

    return change.make(RevokedShare, current, act)
