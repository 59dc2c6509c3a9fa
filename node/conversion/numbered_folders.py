"""Folders of studies that only a number tells apart, and the token that would do it better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from node.conversion.earlier import EarlierSeries
from node.conversion.found_series import FolderSeries
from node.conversion.naming import OF_NOBODY, NameTemplate
from node.conversion.out_folder import Layout

DISTINGUISHING = (
    "patient_id", "study_date", "accession_number", "study_description", "study_time", "study_id", "study_uid"
)  # fmt: skip
"""Tokens of a folder in the order in which they are proposed."""

NOTHING = "unknown"
"""What `NameTemplate.folder_of` returns for a token without a value."""


def numbered_folders(
    all_series: Iterable[FolderSeries],
    wanted: Mapping[str, str],
    earlier: Sequence[EarlierSeries],
    layout: Layout,
) -> list[dict[str, Any]]:
    """Return a row for each name that several studies would have as a folder.

    `wanted`: by Study Instance UID, the name of the folder without a number.
    `earlier`: what OUT has; a study of it may have the name.

    ``folders`` of this run, ``token``: in which all these studies differ, and ``name``: the template with it in the
    folder; both are None if there is none.
    """
    studies = {series.study_instance_uid: series for series in all_series}
    by_name: dict[str, dict[str, Mapping[str, Any]]] = {}
    folders: dict[str, list[str]] = {}
    for uid, name in wanted.items():
        by_name.setdefault(name.casefold(), {})[uid] = studies[uid].attributes
        folders.setdefault(name.casefold(), []).append(studies[uid].folder)
    for series in earlier:
        name, _, _ = series.name.rpartition("/")
        if name.casefold() in by_name:
            by_name[name.casefold()].setdefault(series.key[0], series.described)
    rows = []
    for name, own in by_name.items():
        if any(folder.casefold() != name for folder in folders[name]):
            token = _token(list(own.values()), layout)
            rows.append({"folders": folders[name], "token": token, "name": _with(token, layout)})
    return rows


def _token(studies: Sequence[Mapping[str, Any]], layout: Layout) -> str | None:
    """Return the first token that has another value in each study and is not in the folder yet."""
    assert layout.template is not None
    for token in DISTINGUISHING:
        if token in layout.template.folder_tokens or (layout.anonymous and token not in OF_NOBODY):
            continue
        values = {NameTemplate(f"{{{token}}}/").folder_of(study, ()).casefold() for study in studies}
        if token == "study_uid" or (len(values) == len(studies) > 1 and NOTHING not in values):
            return token
    return None


def _with(token: str | None, layout: Layout) -> str | None:
    assert layout.template is not None
    folder, slash, name = layout.template.text.rpartition("/")
    return f"{folder}_{{{token}}}{slash}{name}" if token else None
