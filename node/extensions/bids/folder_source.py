"""Where volumes come from without a node: DICOM files, which are converted for the export alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from node.conversion.chosen import KNOWN, Chosen, known_facts
from node.conversion.offline import Run, attributes_of_series, convert_folder
from node.errors import UsageError
from node.extensions.bids.plan import Series, VolumeFile
from node.extensions.bids.rules import Rules
from node.extensions.bids.sources import NO_NIFTI, geometry_of, moment
from node.extensions.bids.subjects import Patient
from node.extensions.bids.volume_fields import VOLUME_FIELDS
from node.index.nouns.levels import identity_of
from node.selector import FIELDS, Facts, Selector
from node.writers.options import WriteOptions

OF_VOLUMES = frozenset(name for name, field in FIELDS.items() if field.group == "volume")


class FolderSource:
    """The series in folders, files, zip files or DICOMDIRs.

    Parameters
    ----------
    paths : iterable of Path
    work : Path
        An empty folder for the volumes.
    run, workers, chosen
        See `node.conversion.offline.convert_folder`.
    """

    def __init__(self, paths: Iterable[Path], work: Path, run: Run, workers: int, chosen: Chosen) -> None:
        paths = list(paths)
        options = WriteOptions(formats=("nifti",), thumbnails=False)
        listing = convert_folder(paths, work, options, run, workers, chosen=chosen)
        self._work, self._rows = work, {row["series_instance_uid"]: row for row in listing["series"]}
        self._refusals = {row["series_instance_uid"]: row["detail"] for row in listing["refusals"]}
        self._volumes: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in listing["volumes"]:
            if (row["kind"] in ("volume", "spectra") and row["format"] == "nifti") or row["kind"] == "physio":
                self._volumes[row["series_instance_uid"]].append(row)
        self._attributes: dict[str, Mapping[str, Any]] = {}
        self._twice: set[str] = set()
        for found in attributes_of_series(paths):
            uid = found["series_instance_uid"]
            self._twice |= {uid} & self._attributes.keys()
            self._attributes |= {uid: found} if uid in self._rows else {}
        identities = dict.fromkeys(map(_identity, self._attributes.values()))
        self._numbers = {identity: number for number, identity in enumerate(identities)}

    def patients(self, number: int | None = None) -> Mapping[int, Patient]:
        known = {_identity(found): found.get("patient_id") for found in self._attributes.values()}
        return {
            each: Patient(identity, known[identity])
            for identity, each in self._numbers.items()
            if number in (None, each)
        }

    def patient_of(self, study_instance_uid: str) -> int | None:
        found = (each for each in self._attributes.values() if each["study_instance_uid"] == study_instance_uid)
        return next((self._numbers[_identity(each)] for each in found), None)

    def series_keys(self) -> Collection[tuple[str, str]] | None:
        return None

    def series_of(self, patients: Sequence[int]) -> Iterator[Series]:
        for uid, attributes in self._attributes.items():
            number = self._numbers[_identity(attributes)]
            if number in patients:
                yield self._series(number, uid, attributes)

    def _series(self, patient: int, uid: str, attributes: Mapping[str, Any]) -> Series:
        verdict = self._rows[uid]["verdict"] or {"state": None, "reason": None}
        facts: Facts = {
            **{name: [] if field.several else None for name, field in FIELDS.items()},
            **known_facts(attributes, attributes["instances"]),
            "verdict": verdict["state"],
        }
        volumes = [
            VolumeFile(row["stack"], row["suffix"], self._work / row["path"], row["sha256"], geometry_of(row))
            for row in self._volumes[uid]
        ]
        problem = None if volumes else NO_NIFTI
        if uid in self._refusals:
            problem = f"a part of it has no volume: {self._refusals[uid]}"
        if uid in self._twice:
            problem = "series of two studies have its UID"
        days = {name: attributes.get(name) for name in ("study_date", "study_time", "series_date", "series_time")}
        texts = {name: None if value is None else value.isoformat() for name, value in days.items()}
        return Series(
            patient,
            attributes["study_instance_uid"],
            uid,
            facts,
            moment(texts["study_date"], texts["study_time"]),
            moment(texts["series_date"] or texts["study_date"], texts["series_time"] or texts["study_time"]),
            problem,
            verdict["reason"],
            tuple(volumes),
        )


def require_known(rules: Rules, where: Selector | None) -> None:
    """Refuse rules and a selector that compare what only a node knows.

    Raises
    ------
    UsageError
    """
    known = KNOWN | OF_VOLUMES | VOLUME_FIELDS.keys() | {"verdict"}
    compared = {f'rule "{rule.name}"': selector.fields - known for rule, selector in rules.rules}
    compared["--where"] = where.fields - KNOWN if where is not None else frozenset()
    for place, unknown in compared.items():
        if unknown:
            raise UsageError(f"{place}: {', '.join(sorted(unknown))} is known only to a node")


def _identity(attributes: Mapping[str, Any]) -> str:
    return identity_of(attributes, attributes["study_instance_uid"])
