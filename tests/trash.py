"""The trash of a node."""

from node.control.repository import Repository


def empty_trash(repository: Repository) -> None:
    """Make all deletions permanent."""
    with repository.index.reading() as index:
        entries = index.trash.all()
    for entry in entries:
        repository.actions.by_name["empty-trash"](number=entry["number"], who="somebody")
