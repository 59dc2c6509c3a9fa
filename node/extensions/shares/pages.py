"""The page of a link: the series of a study with their pictures, and their files if the link allows downloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse

from node.extensions.shares.actions import MAX_DAYS
from node.extensions.shares.rest import NewShare, made_share
from node.extensions.shares.rows import ReadShares, ShareRepository
from node.index.database.reading import ReadIndex
from node.index.nouns.accounts import Role
from node.index.nouns.records import Share
from node.registry import DEIDENTIFIED_ZIP, required
from node.web.access import WRITERS, Call, CurrentCall, allow
from node.web.api.models import RowId
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import file_response, local_or_gone
from node.web.pages.downloads import dicom_zip, volumes_zip
from node.web.pages.rendering import SEE_OTHER, page, plain_page, study_url
from node.web.pages.selected import seen_study
from node.web.pages.sessions import require_session
from node.web.public_url import public_url

router = APIRouter(include_in_schema=False)

WITH_LINK = (allow("link"),)

PAGE = "/shared/{share_token}"
LINKS = "/studies/{study_instance_uid}/links"


@router.get(PAGE, dependencies=WITH_LINK)
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


@router.get(f"{PAGE}/pictures/{{series_instance_uid}}", dependencies=WITH_LINK)
def shared_picture(call: CurrentCall, series_instance_uid: str) -> Response:
    """The picture of a series of a link."""
    share = _share(call)
    with call.node.index.reading() as index:
        row = _pictures(index, share).get(series_instance_uid)
        if row is None:
            raise ResourceNotFound("picture")
        noted = index.volumes.file_at(row["path"])
    call.audit.accessed([{"study_instance_uid": share.study}], f"link {share.id}: pictures")
    path = call.node.archive.path(row["path"]) if noted is None else local_or_gone(call.node, noted)
    return file_response(path, "image/png", PurePath(row["path"]).name, row["sha256"])


@router.get(f"{PAGE}/volumes.zip", dependencies=WITH_LINK)
@router.get(f"{PAGE}/dicom.zip", dependencies=WITH_LINK)
def shared_zip(call: CurrentCall) -> Response:
    """The volumes of a link, or its instances as stored, or copies of either without identities, as a ZIP file."""
    share, studies, series = _downloaded(call)
    is_dicom = call.request.url.path.endswith("/dicom.zip")
    if share.deidentification is None:
        return dicom_zip(call, studies, series) if is_dicom else volumes_zip(call, studies, series)
    zipped = required(call.node.settings, DEIDENTIFIED_ZIP, "the link, which shows no identities,")
    response: Response = zipped(call, share.deidentification, "dicom" if is_dicom else "volumes", studies, series)
    return response


@router.get(LINKS, dependencies=WRITERS)
def links(call: CurrentCall, study_instance_uid: str) -> Response:
    """The links to a study, and the form that makes one."""
    return _links_page(call, study_instance_uid)


@router.post(LINKS, dependencies=WRITERS)
def make_link(call: CurrentCall, study_instance_uid: str, wanted: Annotated[NewShare, Form()]) -> Response:
    """Make a link, which this page alone shows."""
    require_session(call)
    made = made_share(call, study_instance_uid, wanted)
    return _links_page(call, study_instance_uid, public_url(call.request) + made.path)


@router.post(f"{LINKS}/{{number}}/revoke", dependencies=WRITERS)
def revoke_link(call: CurrentCall, study_instance_uid: str, number: RowId) -> Response:
    """Revoke a link of one's own; administrators revoke any."""
    call.act("revoke-share", number=number, any_account=call.account.role == Role.ADMIN)
    return RedirectResponse(f"{study_url(study_instance_uid)}/links", SEE_OTHER)


def _links_page(call: Call, study_instance_uid: str, made: str = "") -> Response:
    with call.node.index.reading() as index:
        study = seen_study(call, index, study_instance_uid)
        listed = index.repository(ReadShares).listed(study_instance_uid)
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
