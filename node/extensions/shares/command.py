"""``voxelnode share add|list|revoke``."""

from typing import Annotated

import typer

from node.cli.options import ChangedRoot, Commands, Root
from node.cli.output import Answer, Columns, Listing, listing
from node.errors import counted

app = Commands(help="Share a study by a link that needs no account.", no_args_is_help=True)

SHARES: Columns = {
    "number": "id",
    "study": "study",
    "series": "series",
    "download": lambda row: "yes" if row["may_download"] else "no",
    "de-identified by": "deidentification",
    "made by": "made_by",
    "until": "expires_at",
    "uses": "uses",
    "last use": "used_at",
}


@app.command()
def add(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    days: Annotated[int, typer.Option("--days", metavar="N", min=1, max=366, help="Days until it is over.")] = 14,
    series: Annotated[str, typer.Option("--series", metavar="UID", help="This series only.")] = "",
    download: Annotated[bool, typer.Option("--download", help="Let its files be downloaded. [default: no]")] = False,
    deidentify: Annotated[
        str | None,
        typer.Option("--deidentify", metavar="NAME", help="Show and send nothing but copies by [deidentify.NAME]."),
    ] = None,
    *,
    root: ChangedRoot,
) -> Answer:
    """Make a link to a study or a series, and print its path.

    The path goes behind the address of the node, and is shown only once; the index stores a digest of it. Whoever has
    the link sees who the patient is, unless it is de-identified.
    """
    from node.web.credentials import digest, new_token

    token, study = new_token(), root.named(study, "study").study
    series = root.named(series, "series", study=study).series if series else ""
    how = {"download": download, "deidentification": deidentify}
    made = root.order("make-share", sha256=digest(token), study=study, series=series, days=days, **how)
    path = f"/shared/{token}"
    return Answer({"path": path, **made}, path)


@app.command("list")
def list_(root: Root) -> Listing:
    """List the links, with how often each was used."""
    from dataclasses import asdict

    from node.extensions.shares.listed import ShareViews

    with root.looking() as index:
        rows = [asdict(share) for share in index.views(ShareViews).listed()]
    return listing(counted(len(rows), "link"), SHARES, rows)


@app.command()
def revoke(
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="Number of the link.")], root: ChangedRoot
) -> Answer:
    """Revoke a link at once."""
    done = root.order("revoke-share", number=number)
    return Answer({**done}, f"link {number} revoked")
