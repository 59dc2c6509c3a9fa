"""How long a query by an attribute without a column takes at a million instances, with an index and without.

    nice python benchmarks/attributes.py

makes an index without files, in which each series has an institution of its own, and each instance an exposure; their
documents are as long as those of CT series. Asks for instances by both, over all series.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from pydicom import Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.query import INSTANCES, SERIES, fill, median_ms  # noqa: E402
from node.dicom.keys import QueryModel  # noqa: E402
from node.dicom.matching import Options, read_query  # noqa: E402
from node.index.database.reading import reading  # noqa: E402
from node.index.engine.place import FILE_NAME  # noqa: E402

STEADY = {f"PatientComments{number}": f"a value of a series, {number}" for number in range(40)}
"""As much text as the document of a CT series has."""


def add_documents(path: Path) -> None:
    """Give each series an institution of its own, and each instance an exposure."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany(
            "INSERT INTO series_documents (series_id, document, varying, is_partial, terms_number) "
            "VALUES (?, ?, '[\"Exposure\"]', 0, 0)",
            (
                (i, json.dumps({**STEADY, "InstitutionName": f"Hospital {i}", "Exposure": "0"}))
                for i in range(1, SERIES + 1)
            ),
        )
        connection.executemany(
            "INSERT INTO image_documents (image_id, document) VALUES (?, ?)",
            ((i, json.dumps({"Exposure": str(i)})) for i in range(1, INSTANCES + 1)),
        )
        connection.commit()


def add_terms(path: Path) -> None:
    """Index both, as `voxelnode db reindex` does."""
    since = {"InstitutionName": 1, "Exposure": 1}
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO about VALUES ('indexed', ?)", (json.dumps({"number": 1, "since": since}),))
        connection.execute(
            "INSERT INTO series_terms (name, value, series_id) "
            "SELECT 'InstitutionName', 'hospital ' || id, id FROM series"
        )
        connection.execute(
            "INSERT INTO series_terms (name, value, series_id) "
            "SELECT 'Exposure', '#' || id || '.0', series_id FROM images"
        )
        connection.execute("UPDATE series_documents SET terms_number = 1")
        connection.commit()


def ask(root: Path, keyword: str, value: str) -> None:
    keys = Dataset()
    keys.QueryRetrieveLevel = "IMAGE"
    setattr(keys, keyword, value)
    query = read_query(keys, QueryModel.STUDY_ROOT, Options(relational=True))
    with reading(root) as index:
        milliseconds, count = median_ms(lambda: len(list(index.find(query))))
    print(f"{keyword}={value}: {count} instances, {milliseconds:.1f} ms", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        path = root / FILE_NAME
        fill(path)
        add_documents(path)
        for is_indexed in (False, True):
            if is_indexed:
                add_terms(path)
            print("with [query] indexed" if is_indexed else "without an index", flush=True)
            ask(root, "InstitutionName", "Hospital 4711")
            ask(root, "Exposure", "471100")


if __name__ == "__main__":
    main()
