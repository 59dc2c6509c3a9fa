"""A look at an index, for commands and programs that read it and end: the documented views, without SQLAlchemy.

An index in PostgreSQL is read by SQLAlchemy as well.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from node.errors import UsageError
from node.index.look.views import ReadIndex
from node.index.rows.backend import IndexUnusable, Place
from node.index.rows.records import Level
from node.index.rows.sqlite_file import connect, missing
from node.index.rows.view_rows import queries_of_file


@contextmanager
def looking(place: Place) -> Iterator[ReadIndex]:
    """Open an index for reading only, also while a node writes to it.

    Raises IndexUnusable if there is none, it cannot be read, or its schema is not known.
    """
    if not isinstance(place, Path):
        from node.index.reading import reading

        with reading(place.root, place.url) as index:
            yield index
        return
    if (message := missing(place)) is not None:
        raise IndexUnusable(message)
    try:
        with closing(connect(place, read_only=True)) as connection:
            connection.isolation_level = None  # one transaction, which is one snapshot
            connection.execute("BEGIN")
            index = ReadIndex(queries_of_file(connection))
            if not index.has_newest_schema:
                from node.index.rows.place import require_known

                require_known(place)
            yield index
    except sqlite3.Error as error:
        from node.index.rows.place import unreadable

        raise unreadable(place, error) from error


_END_OF_UID = re.compile(r"[0-9.]{4,64}")


class Named(NamedTuple):
    """What a person names: a study, a series or an instance, with the UIDs of what it is in."""

    level: Level
    uid: str
    study: str
    series: str = ""


def named(index: ReadIndex, text: str) -> list[Named]:
    """Return what a person may mean by a text.

    That is a UID of any level; else the studies of a Patient ID, of # and a number of `patient list`, or with an
    Accession Number; else what has a UID that ends so, as lists cut it: ``..50794718``.
    """
    found = [Named("study", text, text)] if index.studies.row(text) is not None else []
    found += [Named("series", text, row["study_instance_uid"], text) for row in index.series.with_uid(text)]
    if (row := index.instances.row(text)) is not None:
        found.append(Named("instance", text, row["study_instance_uid"], row["series_instance_uid"]))
    if not found:
        patients = [one["merged_into"] or one["id"] for one in index.patients.with_patient_id(text)]
        if text.startswith("#") and text[1:].isdecimal():
            patients = [int(text[1:])]
        studies = index.studies.of_patients(patients) + index.studies.with_accession_number(text)
        found = [Named("study", uid, uid) for uid in dict.fromkeys(one["study_instance_uid"] for one in studies)]
    if not found and _END_OF_UID.fullmatch(end := text.lstrip(".")):
        uids = [(one["study_instance_uid"], one["series_instance_uid"]) for one in index.series.ending(end)]
        found = [Named("series" if series else "study", series or study, study, series) for study, series in uids]
    return found


def the_named(index: ReadIndex, text: str, *levels: Level, study: str | None = None) -> Named:
    """Return the one study, series or instance of some levels that a person means; `study`: it is of this one.

    Raises UsageError: there is none, or there are several.
    """
    found = named(index, text)
    fitting = [one for one in found if one.level in levels and study in (None, one.study)]
    if len(fitting) == 1:
        return fitting[0]
    wanted = " or ".join(levels)
    if fitting:
        several = ", ".join(f"{one.level} {one.uid}" + f" of study {one.study}" * bool(one.series) for one in fitting)
        raise UsageError(f"{text} names several: give the UID of one, or --study: {several}")
    if found:
        raise UsageError(f"{text} is a {found[0].level}: give a {wanted}")
    raise UsageError(
        f"{text}: no {wanted} here has this UID or the end of it, this Patient ID or Accession Number: `voxelnode info "
        f"{text}` says what became of it; check --root"
    )


def is_there(place: Place) -> bool:
    """Return whether there is an index, of whichever schema, as `node.index.rows.place.exists` does."""
    if isinstance(place, Path):
        return missing(place) is None
    from node.index.rows.place import exists

    return exists(place)
