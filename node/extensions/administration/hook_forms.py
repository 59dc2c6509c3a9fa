"""The forms of hooks that administrators add, their buttons, and the test message."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from node.errors import VoxelnodeError
from node.extensions.administration.additions import NONE_YET
from node.extensions.administration.hooks import MAX_SECRET_CHARACTERS
from node.extensions.administration.own import require_session
from node.extensions.pages.rendering import SEE_OTHER, fragment
from node.settings.model import HookEvent, HookSettings
from node.web import actions
from node.web.access import AdminCall, Call
from node.web.errors import ResourceNotFound

router = APIRouter(include_in_schema=False)

PAGE = "/administration/connections#hooks-title"

HookName = Annotated[str, Path(max_length=64)]
Messages = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(max_length=4000)]
Seen = Annotated[str | None, Field(max_length=64)]


class HookForm(BaseModel):
    """The form of a hook, with the keys of ``[hooks.NAME]`` that an added one may have, and its secret.

    `seen`: the change that the form is about, so that one of somebody else is not overwritten.
    """

    url: Text
    on: tuple[HookEvent, ...] = ()
    calling_ae_titles: Text = ""
    where: Text = ""
    include_patient: bool = False
    timeout_seconds: float = 30
    attempts: int = 12
    secret: Annotated[str, Field(max_length=MAX_SECRET_CHARACTERS)] = ""
    no_secret: bool = False
    drops: Messages = 0
    seen: Seen = None

    def hook(self) -> dict[str, Any]:
        """Return the table of the hook, with the keys that have no default value, and its secret."""
        titles = tuple(title.strip() for title in self.calling_ae_titles.split(",") if title.strip())
        values = {
            "on": self.on, "url": self.url.strip(), "calling_ae_titles": titles, "where": self.where.strip() or None,
            "include_patient": self.include_patient, "timeout_seconds": self.timeout_seconds, "attempts": self.attempts,
        }  # fmt: skip
        keys = {key: value for key, value in values.items() if value != HookSettings.model_fields[key].default}
        return {"hook": keys, "secret": "" if self.no_secret else self.secret.strip() or None}


class NewHook(HookForm):
    """The form that adds a hook."""

    name: Annotated[str, Field(max_length=64)] = ""


@router.post("/administration/added-hooks")
def add_hook(call: AdminCall, form: Annotated[NewHook, Form()]) -> Response:
    """Add a hook, which is sent what happens from now on."""
    require_session(call)
    call.act("set-hook", name=form.name, seen=NONE_YET, **form.hook())
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/added-hooks/{name}")
def change_hook(call: AdminCall, name: HookName, form: Annotated[HookForm, Form()]) -> Response:
    """Change a hook that was added."""
    require_session(call)
    call.act("set-hook", name=name, drops=form.drops, seen=form.seen, **form.hook())
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/added-hooks/{name}/remove")
def remove_hook(
    call: AdminCall,
    name: HookName,
    drops: Annotated[Messages, Form()] = 0,
    seen: Annotated[str | None, Form(max_length=64)] = None,
) -> Response:
    """Remove a hook that was added, and drop as many messages as the page has told."""
    require_session(call)
    call.act("remove-hook", name=name, drops=drops, seen=seen)
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/try-hook")
def try_new(call: AdminCall, form: Annotated[NewHook, Form()]) -> Response:
    """Send a test message as the form of a hook has it, and tell what the receiver answered."""
    require_session(call)
    return _tried(call, form.name or "new", **form.hook())


@router.post("/administration/added-hooks/{name}/try")
def try_changed(call: AdminCall, name: HookName, form: Annotated[HookForm, Form()]) -> Response:
    """The same for a change of a hook."""
    require_session(call)
    return _tried(call, name, **form.hook())


@router.post("/administration/hooks/{hook}/test")
def test_hook(call: AdminCall, hook: HookName) -> Response:
    """Send a message of the newest series, marked as a test, and tell what the receiver answered."""
    if hook not in call.node.settings.hooks:
        raise ResourceNotFound("hook")
    return _tried(call, hook, is_named=True)


@router.post("/administration/hooks/{hook}")
def pause_hook(
    call: AdminCall, hook: HookName, action: Annotated[Literal["pause", "resume", "retry"], Form()]
) -> Response:
    """Pause a hook, let it go on, or deliver again what was given up or waits for its next attempt."""
    actions.change_hook(call, hook, action)
    return RedirectResponse(PAGE, SEE_OTHER)


def _tried(call: Call, name: str, *, is_named: bool = False, **given: Any) -> Response:
    try:
        problem = call.act("try-hook", name=name, **given)["reason"] or ""
    except VoxelnodeError as error:
        problem = str(error)
    return fragment(call, "hook_tested.html", problem=problem, name=name if is_named else "")
