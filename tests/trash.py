"""The trash of a node."""

from node.control.repository import Repository


def delete(repository: Repository, uid: object, level: str = "study", *, erases: bool = False) -> None:
    """Delete a study, a series or an instance, into the trash unless it is erased."""
    repository.actions.by_name["delete"](
        level=level, uid=str(uid), study_instance_uid=None, who="somebody", erase=erases
    )


def empty_trash(repository: Repository) -> None:
    """Make all deletions permanent."""
    with repository.index.reading() as index:
        entries = index.trash.all()
    for entry in entries:
        repository.actions.by_name["empty-trash"](number=entry["number"], who="somebody")
