"""REST: projects, their members and their contents."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Path
from pydantic import Field

from node.extensions.projects.listed import ProjectViews
from node.extensions.projects.rules import MAX_AE_TITLE_CHARACTERS, MAX_CONTENTS, MAX_DESCRIPTION_CHARACTERS
from node.index.look.views import ReadIndex
from node.index.rows.scope import ProjectRole, within
from node.index.rules.people.accounts import Role
from node.web.access import ADMINS, MANAGERS, MEMBERS, Call, CurrentCall
from node.web.api.models import Resource
from node.web.api.routing import OF_CHANGES, Change, api_router, problems
from node.web.errors import Forbidden, ResourceNotFound

router = api_router(MEMBERS, "projects")

PROJECT = "/projects/{project}"
MEMBER = f"{PROJECT}/members/{{account:path}}"

Name = Annotated[str, Path(min_length=1, max_length=64, description="name of the project")]
Account = Annotated[
    str, Path(min_length=1, max_length=64, description="name of the account, or group:NAME of the identity provider")
]
Uid = Annotated[str, Field(min_length=1, max_length=64)]


class ProjectResource(Resource):
    """A project, and the number of its series."""

    name: str
    description: str
    rule: str | None
    called_ae_title: str | None
    series: int


class Projects(Resource):
    """The projects that the caller sees."""

    items: list[ProjectResource]


class ProjectFields(Resource):
    """What a project has; what is not given stays, and an empty rule or AE title is none."""

    description: Annotated[str | None, Field(max_length=MAX_DESCRIPTION_CHARACTERS)] = None
    rule: Annotated[str | None, Field(max_length=2000)] = None
    called_ae_title: Annotated[str | None, Field(max_length=MAX_AE_TITLE_CHARACTERS)] = None


class SetProject(Resource):
    """A project that was created or changed."""

    project: str
    new: bool


class RemovedProject(Resource):
    """The name that a project had."""

    removed: str


class MemberResource(Resource):
    """An account with a role in a project."""

    account: str
    role: str


class Members(Resource):
    """The members of a project."""

    items: list[MemberResource]


class MemberRole(Resource):
    """A role in a project."""

    role: ProjectRole


class ProjectMember(Resource):
    """An account, its project, and its role in it."""

    project: str
    account: str
    role: str


class RemovedMember(Resource):
    """An account that is no member of a project any more."""

    project: str
    removed: str


class ContentKey(Resource):
    """A study, or one of its series."""

    study_instance_uid: Uid
    series_instance_uid: Annotated[str, Field(max_length=64)] = ""


class ContentChange(Resource):
    """What comes into a project, and what leaves it."""

    add: Annotated[list[ContentKey], Field(max_length=MAX_CONTENTS, default_factory=list)]
    remove: Annotated[list[ContentKey], Field(max_length=MAX_CONTENTS, default_factory=list)]


class ChangedContents(Resource):
    """How many came and left."""

    added: int
    removed: int


@router.get("/projects")
def list_projects(call: CurrentCall) -> Projects:
    """The projects that the caller sees: all, or their own."""
    with call.node.index.reading() as index:
        rows = index.views(ProjectViews).all()
    return Projects(items=[ProjectResource.of(row) for row in rows])


@router.put(PROJECT, responses=problems(*OF_CHANGES), dependencies=ADMINS)
def set_project(call: CurrentCall, change: Change, project: Name, fields: ProjectFields) -> SetProject:
    """Create a project, or change it."""
    return change.make(
        SetProject,
        lambda index: _project(index, project),
        lambda _: call.act("set-project", name=project, **fields.model_dump()),
    )


@router.delete(PROJECT, responses=problems(*OF_CHANGES), dependencies=ADMINS)
def remove_project(call: CurrentCall, change: Change, project: Name) -> RemovedProject:
    """Remove a project; its series stay."""
    return change.make(
        RemovedProject, lambda index: _project(index, project), lambda _: call.act("remove-project", name=project)
    )


@router.get(f"{PROJECT}/members", responses=problems(*OF_CHANGES), dependencies=MANAGERS)
def list_members(call: CurrentCall, project: Name) -> Members:
    """The members of a project, with their roles: for administrators, and members with the role manage."""
    with _managing(call, project), call.node.index.reading() as index:
        return _members(index, project)


@router.put(MEMBER, responses=problems(*OF_CHANGES), dependencies=MANAGERS)
def set_member(call: CurrentCall, change: Change, project: Name, account: Account, member: MemberRole) -> ProjectMember:
    """Give an account a role in a project; from its next request it sees its projects only.

    Administrators do this, and members with the role manage for accounts that see projects only before.
    """

    @_managing(call, project)
    def act(_: object) -> Mapping[str, Any]:
        known = {"name": project, "account": account, "role": member.role}
        return call.act("set-project-member", **known, may_limit=call.account.role == Role.ADMIN)

    return change.make(ProjectMember, lambda index: _members(index, project), act)


@router.delete(MEMBER, responses=problems(*OF_CHANGES), dependencies=MANAGERS)
def remove_member(call: CurrentCall, change: Change, project: Name, account: Account) -> RemovedMember:
    """Take the role in a project from an account: for administrators, and members with the role manage."""

    @_managing(call, project)
    def act(_: object) -> Mapping[str, Any]:
        return call.act("remove-project-member", name=project, account=account)

    return change.make(RemovedMember, lambda index: _members(index, project), act)


@router.post(f"{PROJECT}/contents", responses=problems(*OF_CHANGES), dependencies=MANAGERS)
def change_contents(call: CurrentCall, change: Change, project: Name, contents: ContentChange) -> ChangedContents:
    """Put studies and series into a project, and take others out.

    Administrators do this, and members with the role manage in the project, and in one that has what they name.
    """
    add = [(one.study_instance_uid, one.series_instance_uid) for one in contents.add]
    remove = [(one.study_instance_uid, one.series_instance_uid) for one in contents.remove]

    def act(_: object) -> Mapping[str, Any]:
        with _managing(call, project), call.changing(*add, *remove):
            return call.act("change-project-contents", name=project, add=add, remove=remove)

    return change.make(ChangedContents, lambda index: _project(index, project), act)


@contextmanager
def _managing(call: Call, project: str) -> Iterator[None]:
    """Act on a project: administrators on any, members on those in which they have the role manage.

    Raises ResourceNotFound for a project that the caller does not see, and Forbidden.
    """
    scope = call.account.scope
    with call.node.index.reading() as index:
        _project(index, project)
    # A token for one project has no account in its scope, and no role above write.
    if not (scope.account if scope is not None else call.account.role >= Role.ADMIN):
        raise Forbidden("administrators, and members with the role manage, change a project")
    with within(None if scope is None else replace(scope, role="manage")), call.node.index.reading() as index:
        if index.views(ProjectViews).one(project) is None:
            raise Forbidden(f"account {call.account.name} needs the role manage in project {project}")
    with within(None):
        yield


def _project(index: ReadIndex, name: str) -> ProjectResource:
    row = index.views(ProjectViews).one(name)
    if row is None:
        raise ResourceNotFound("project")
    return ProjectResource.of(row)


def _members(index: ReadIndex, project: str) -> Members:
    _project(index, project)
    return Members(items=[MemberResource.of(row) for row in index.views(ProjectViews).members(project)])
