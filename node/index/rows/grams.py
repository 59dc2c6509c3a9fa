"""Grams: each three characters in a row of the texts by which people find studies, and what is left at the end of them.

A study can have a word only if it has all grams of the word, or one that begins with a shorter word. An index of grams
therefore names the few studies that are to be compared with a rare word. Triggers keep it: each statement that changes
a study or its patient changes it in the same transaction, also those that copy an index or build a new one. SQLite has
it as a table of FTS5, and PostgreSQL as a table with an index of its texts; both have the id of the study as ``rowid``.
"""

import re
from collections.abc import Iterable, Sequence

from sqlalchemy import BigInteger, Dialect, Select, String, bindparam, column, select, table
from sqlalchemy.types import TypeDecorator

from node.index.rows.sql import ConditionElement

NAME = "study_grams"
"""The table; SQLite has others with longer names beside it."""

SIZE = 3

OF_PATIENT = ("patient_name_alphabetic", "patient_name_ideographic", "patient_name_phonetic", "patient_id")
OF_STUDY = ("patient_id", "accession_number")
"""Columns whose changes change the grams of a study."""

MAX_GRAMS = 64
"""Grams of a word that are looked up: more would hardly name fewer studies."""

EVERY = "all"
"""What every study has beside its grams."""

_ID = column("rowid", BigInteger)
_TABLE = table(NAME, _ID)


def having_words(words: Iterable[Sequence[str]]) -> Select[int]:
    """Return a SELECT of the studies that can have some words, each in one of its spellings, all in lower case."""
    wanted = " AND ".join(f"({' OR '.join(map(_has, dict.fromkeys(spellings)))})" for spellings in words)
    return select(_ID).select_from(_TABLE).where(_Match(bindparam(None, wanted, type_=_Wanted)))


def every() -> Select[int]:
    """Return a SELECT of the studies that have grams."""
    return select(_ID).select_from(_TABLE).where(_Match(bindparam(None, EVERY, type_=_Wanted)))


def _has(word: str) -> str:
    if len(word) < SIZE:
        return f"{_named(word)}*" if word else EVERY
    grams = dict.fromkeys(word[start : start + SIZE] for start in range(len(word) - SIZE + 1))
    return f"({' AND '.join(map(_named, list(grams)[:MAX_GRAMS]))})"


def _named(gram: str) -> str:
    """Return a gram in digits, since what FTS5 and PostgreSQL take for a word has letters and digits alone."""
    return gram.encode("utf-8", "replace").hex()


class _Match(ConditionElement):
    """A study has what is wanted of it."""

    in_sqlite = f"({NAME} MATCH {{0}})"
    in_postgresql = f"({NAME}.grams @@ CAST({{0}} AS TSQUERY))"


class _Wanted(TypeDecorator[str]):
    """Grams in the words of FTS5; PostgreSQL has signs for these."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value if value is None or dialect.name == "sqlite" else re.sub("AND|OR|[*]", _said, value)


def _said(word: re.Match[str]) -> str:
    return {"AND": "&", "OR": "|", "*": ":*"}[word[0]]
