"""Links to studies: REST, and the pages that they open."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from node.extensions.shares.listed import ShareViews
from node.extensions.shares.rows import MAX_DAYS, ShareRepository
from node.index.look.views import ReadIndex
from node.index.rows.records import Share
from node.index.rules.people.accounts import Role
from node.registry import DEIDENTIFIED_ZIP, required
from node.web.access import WRITERS, Call, CurrentCall, allow
from node.web.api.models import Moment, Resource, RowId
from node.web.api.resources import StudyUid
from node.web.api.routing import OF_CHANGES, Change, api_router, problems
from node.web.audit_trail import of_study
from node.web.credentials import digest, new_token
from node.web.errors import Forbidden, ResourceNotFound
from node.web.files import file_response, local_or_gone
from node.web.pages.rendering import SEE_OTHER, page, plain_page, require_session, study_url
from node.web.pages.selected import dicom_zip, seen_study, volumes_zip
from node.web.principal import has_token
from node.web.services import public_url

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
        items = [ShareResource.of(asdict(one)) for one in index.views(ShareViews).listed(study_instance_uid)]
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
        found = next((one for one in index.views(ShareViews).listed() if one.id == share), None)
        if found is None or not (any_account or found.made_by == call.account.name):
            raise ResourceNotFound("link")
        return ShareResource.of(asdict(found))

    def act(_: object) -> RevokedShare:
        with call.node.index.reading() as index:
            current(index)
        return RevokedShare.model_validate(call.act("revoke-share", number=share, any_account=any_account))

    return change.make(RevokedShare, current, act)


pages_router = APIRouter(include_in_schema=False)

WITH_LINK = (allow("link"),)

PAGE = "/shared/{share_token}"
LINKS = "/studies/{study_instance_uid}/links"


@pages_router.get(PAGE, dependencies=WITH_LINK)
def shared(call: CurrentCall) -> Response:
    """The page of a link."""
    share = _share(call)
    with call.node.index.reading() as index:
        study, series = index.studies.row(share.study), _series(index, share)
        pictures = _pictures(index, share)
    if study is None or not series:
        raise ResourceNotFound("shared study")
    call.node.index.repository(ShareRepository).note_use(share.id, call.node.ingest.now())
    call.audit.accessed([of_study(share.study, study["patient_id"])], f"link {share.id}")
    values: dict[str, Any] = {"study": study, "series": series, "pictures": pictures, "path": _path(call)}
    return plain_page("shared.html", share=share, **values)


@pages_router.get(f"{PAGE}/pictures/{{series_instance_uid}}", dependencies=WITH_LINK)
def shared_picture(call: CurrentCall, series_instance_uid: str) -> Response:
    """The picture of a series of a link."""
    share = _share(call)
    with call.node.index.reading() as index:
        row = _pictures(index, share).get(series_instance_uid)
        if row is None:
            raise ResourceNotFound("picture")
        noted = index.files.file_at(row["path"])
    call.audit.accessed([{"study_instance_uid": share.study}], f"link {share.id}: pictures")
    path = call.node.archive.path(row["path"]) if noted is None else local_or_gone(call.node, noted)
    return file_response(path, "image/png", PurePath(row["path"]).name, row["sha256"])


@pages_router.get(f"{PAGE}/volumes.zip", dependencies=WITH_LINK)
@pages_router.get(f"{PAGE}/dicom.zip", dependencies=WITH_LINK)
def shared_zip(call: CurrentCall) -> Response:
    """The volumes of a link, or its instances as stored, or copies of either without identities, as a ZIP file."""
    share, studies, series = _downloaded(call)
    is_dicom = call.request.url.path.endswith("/dicom.zip")
    if share.deidentification is None:
        return dicom_zip(call, studies, series) if is_dicom else volumes_zip(call, studies, series)
    zipped = required(call.node.settings, DEIDENTIFIED_ZIP, "the link, which shows no identities,")
    response: Response = zipped(call, share.deidentification, "dicom" if is_dicom else "volumes", studies, series)
    return response


@pages_router.get(LINKS, dependencies=WRITERS)
def links(call: CurrentCall, study_instance_uid: str) -> Response:
    """The links to a study, and the form that makes one."""
    return _links_page(call, study_instance_uid)


@pages_router.post(LINKS, dependencies=WRITERS)
def make_link(call: CurrentCall, study_instance_uid: str, wanted: Annotated[NewShare, Form()]) -> Response:
    """Make a link, which this page alone shows."""
    require_session(call)
    made = made_share(call, study_instance_uid, wanted)
    return _links_page(call, study_instance_uid, public_url(call.request) + made.path)


@pages_router.post(f"{LINKS}/{{number}}/revoke", dependencies=WRITERS)
def revoke_link(call: CurrentCall, study_instance_uid: str, number: RowId) -> Response:
    """Revoke a link of one's own; administrators revoke any."""
    call.act("revoke-share", number=number, any_account=call.account.role == Role.ADMIN)
    return RedirectResponse(f"{study_url(study_instance_uid)}/links", SEE_OTHER)


def _links_page(call: Call, study_instance_uid: str, made: str = "") -> Response:
    with call.node.index.reading() as index:
        study = seen_study(call, index, study_instance_uid)
        listed = index.views(ShareViews).listed(study_instance_uid)
        series = index.series.of_study(study_instance_uid)
    return page(call, "links.html", study=study, links=listed, series=series, made=made, max_days=MAX_DAYS)


def _share(call: Call) -> Share:
    """Return the link of a request."""
    if call.account.share is None:  # a route that the access by links does not know
        raise ResourceNotFound("link")
    return call.account.share


def _path(call: Call) -> str:
    return f"/shared/{call.request.path_params['share_token']}"


def _downloaded(call: Call) -> tuple[Share, Sequence[str], Sequence[str]]:
    share = _share(call)
    if not share.may_download:
        raise ResourceNotFound("download")
    call.node.index.repository(ShareRepository).note_use(share.id, call.node.ingest.now())
    return share, [share.study], [share.series] if share.series else []


def _series(index: ReadIndex, share: Share) -> list[Mapping[str, Any]]:
    rows = index.series.of_study(share.study)
    return [row for row in rows if share.series in ("", row["series_instance_uid"])]


def _pictures(index: ReadIndex, share: Share) -> dict[str, Mapping[str, Any]]:
    """Return the picture of each series that has one; of a link without identities none: it may have text in it."""
    found: dict[str, Mapping[str, Any]] = {}
    if share.deidentification is not None:
        return found
    for row in index.volumes.current(share.study):
        is_shared = share.series in ("", row["series_instance_uid"])
        if is_shared and row["kind"] == "thumbnail" and row["files_removed_at"] is None:
            found.setdefault(row["series_instance_uid"], row)
    return found
