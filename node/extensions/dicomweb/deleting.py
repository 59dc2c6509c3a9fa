"""DELETE of studies, series and instances, into the trash, by those who may delete.

PS3.18 has no such transaction; archives and clients agree on this one, at the URLs of PS3.18 10.1.
"""

from __future__ import annotations

from fastapi import HTTPException, Request, Response

from node.extensions.dicomweb.resources import dicomweb_router
from node.index.nouns.deletions import NotThere
from node.web.access import ADMINS, Call, CurrentCall
from node.web.actions import delete

router = dicomweb_router(ADMINS)


@router.delete("/studies/{study}", status_code=204)
@router.delete("/studies/{study}/series/{series}", status_code=204)
@router.delete("/studies/{study}/series/{series}/instances/{instance}", status_code=204)
def delete_resource(call: CurrentCall, request: Request) -> Response:
    """Delete a study, a series or an instance, into the trash; 410 if it was deleted before."""
    study, *below = request.path_params.values()
    series, instance = [*below, None, None][:2]
    try:
        if instance is not None:
            _require(call, study, series, instance)
            delete(call, "instance", instance, study)
        elif series is not None:
            delete(call, "series", series, study)
        else:
            delete(call, "study", study, None)
    except NotThere:
        uids = (uid for uid in (study, series, instance) if uid is not None)
        with call.node.index.reading() as index:
            is_deleted = index.deletions.has_deleted(*uids)
        raise HTTPException(
            *((410, "it was deleted") if is_deleted else (404, "the resource does not exist"))
        ) from None
    return Response(status_code=204)


def _require(call: Call, study: str, series: str | None, instance: str) -> None:
    """Raise NotThere unless an instance is in a series: its UID alone would delete it under any URL."""
    with call.node.index.reading() as index:
        rows = index.instances.page(None, 1, sop_instance_uid=instance)
    if not rows or (rows[0]["study_instance_uid"], rows[0]["series_instance_uid"]) != (study, series):
        raise NotThere(f"no instance {instance} in this series")
