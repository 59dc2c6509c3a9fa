"""``voxelnode projects list|set|remove|member|add|take|limit``."""

from typing import Annotated

import typer

from node.cli.options import ChangedRoot, Commands, Root, SeriesUids, StudyUids, studies_or_series
from node.cli.output import Answer, Columns, Listing, listing
from node.errors import counted

app = Commands(help="Limit accounts to the series of projects.", no_args_is_help=True)

PROJECTS: Columns = {
    "project": "name",
    "series": "series",
    "rule": "rule",
    "called AE title": "called_ae_title",
    "members": lambda row: ", ".join(f"{one['account']} ({one['role']})" for one in row["members"]),
    "description": "description",
}

Project = Annotated[str, typer.Argument(metavar="PROJECT", help="Name of the project.")]
Account = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="Name of the account, or group:NAME of the identity provider.")
]


@app.command("list")
def list_(root: Root) -> Listing:
    """List the projects with their members."""
    from node.extensions.projects.listed import ProjectViews

    with root.looking() as index:
        projects = index.views(ProjectViews)
        rows = [{**row, "members": projects.members(row["name"])} for row in projects.all()]
    return listing(counted(len(rows), "project"), PROJECTS, rows)


@app.command("set")
def set_(
    project: Project,
    description: Annotated[str | None, typer.Option("--description", metavar="TEXT", help="What it is for.")] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            "--rule", metavar="EXPRESSION", help="The series that this selects are in the project. Empty: no rule."
        ),
    ] = None,
    called: Annotated[
        str | None,
        typer.Option("--called", metavar="AE", help="New series that are sent to this AE title are, too. Empty: none."),
    ] = None,
    *,
    root: ChangedRoot,
) -> Answer:
    """Create a project, or change what the options name."""
    done = root.order("set-project", name=project, description=description, rule=rule, called_ae_title=called)
    return Answer(done, f"project {project} {'created' if done['new'] else 'changed'}")


@app.command()
def remove(project: Project, root: ChangedRoot) -> Answer:
    """Remove a project. Its series stay, and its members see what is in their other projects."""
    return Answer(root.order("remove-project", name=project), f"project {project} removed")


@app.command()
def member(
    project: Project,
    account: Account,
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="What it may do there: read, write or manage.")
    ] = "read",
    remove: Annotated[bool, typer.Option("--remove", help="End its membership of this project.")] = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Let an account see a project. From its next request it sees its projects only."""
    if remove:
        done = root.order("remove-project-member", name=project, account=account)
        return Answer(done, f"{account} is no longer a member of {project}")
    done = root.order("set-project-member", name=project, account=account, role=role)
    return Answer(done, f"{account} has the role {role} in {project}, and sees nothing but its projects")


@app.command()
def limit(
    account: Account,
    whole_node: Annotated[
        bool, typer.Option("--whole-node", help="It leaves its projects, and sees everything again.")
    ] = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Let an account see its projects only, which may be none."""
    done = root.order("limit-account", account=account, is_limited=not whole_node)
    return Answer(done, f"{account} sees {'the whole node' if whole_node else 'its projects only'}")


@app.command()
def add(project: Project, studies: StudyUids, series: SeriesUids = [], *, root: ChangedRoot) -> Answer:  # noqa: B006
    """Put studies, or series of one study, into a project. New series of such a study are in it, too."""
    done = root.order("change-project-contents", name=project, add=studies_or_series(root, studies, series))
    return Answer(done, f"{done['added']} put into {project}")


@app.command()
def take(project: Project, studies: StudyUids, series: SeriesUids = [], *, root: ChangedRoot) -> Answer:  # noqa: B006
    """Take out of a project what was put into it. What its rule selects stays."""
    done = root.order("change-project-contents", name=project, remove=studies_or_series(root, studies, series))
    return Answer(done, f"{done['removed']} taken out of {project}")
