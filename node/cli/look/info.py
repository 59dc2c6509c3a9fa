"""``voxelnode info``."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from functools import partial
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.look.dump import is_volume, volume_header
from node.cli.look.series import state_of
from node.cli.options import Root
from node.cli.output import Listing, described, minute, print_fields, print_finding, print_table, printable, series_name
from node.dicom.lean_import import load_names
from node.errors import UsageError, counted
from node.index.rows.view_rows import judged, parsed, remedy_of
from node.volume.reasons import REMEDIES

if TYPE_CHECKING:
    from pydicom import Dataset

    from node.archive.base import LocalFile
    from node.index.look.views import ReadIndex
    from node.index.looking import Named
    from node.index.rows.records import InstanceFile
    from node.settings.model import Settings

Row = dict[str, Any]

MAX_PATIENTS = 100
"""Patients of one name that are shown."""

MAX_HEADER_BYTES = 64 << 20
"""How much of a file is read for its header."""

MAX_EXCLUSIONS = 1000
"""Excluded instances of a series that are shown."""

MAX_READ_STUDIES = 20
"""Number of a patient's newest studies whose headers are read."""

SEARCH_SECONDS = 20.0
"""How long the ledger and the audit log are searched for what was not found."""

PLAIN_COSINE = 0.9962
"""Cosine of 5 degrees: planes that are turned less count as axial, sagittal or coronal."""

OF_STUDY = ("InstitutionName", "PatientAge", "PatientSize", "PatientWeight")
OF_EQUIPMENT = ("InstitutionName", "Manufacturer", "ManufacturerModelName")
"""What is shown of the studies of a patient (PS3.3 C.7.5.1), from the first instance of each."""

HEADER_FIELDS = (
    *OF_STUDY,
    *("Manufacturer", "ManufacturerModelName", "StationName"),
    *("PatientPosition", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness"),
    *("SpacingBetweenSlices", "SliceLocation", "ImageOrientationPatient", "ImagePositionPatient"),
)
"""Attributes that are shown of a header; metres, kilograms and millimetres, as the standard has them."""

OF_FRAMES = (
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence"),
)
"""Sequences of enhanced objects that hold them."""

STATED = (
    *("series_instance_uid", "modality", "series_number", "series_description", "state", "verdict", "certainty"),
    *("verdict_rule", "verdict_reason", "instances", "expected_instances", "missing_instances", "last_received_at"),
    *("due_at", "error", "missing_at_sender"),
)
"""Columns of ``v_series`` that are shown of each series of a study."""

SENT = {
    **{"route": "route", "destination": "destination", "sent": "sent", "patient_id": "as", "confirmed": "confirmed"},
    **{"waiting": "messages waiting", "given_up": "given up", "reason": "reason"},
}
"""What is shown of each destination of a route, with the heads of the columns."""

DAMAGED_FILE = "missing or damaged: have the instance sent again, or take it from a backup"

PATIENT_COLUMNS = ("patient_id", "patient_name", "patient_birth_date", "patient_sex")
"""Columns of v_studies that belong to the patient."""


def info(
    uid: Annotated[
        str,
        typer.Argument(
            metavar="UID|NAME",
            help="UID of a study, series or instance, the end of that of a series, a Patient ID, an Accession Number, "
            "a part of a name, or a volume file.",
        ),
    ],
    *,
    root: Root,
) -> Listing:
    """Show a patient, study, series or instance with its volumes.

    Higher levels are shown as well, failures, excluded instances and conflicts with their reasons, and of the first
    instance what the index does not have: institution, age, weight, spacing, thickness, orientation, position. Of a
    study, how many instances each destination of a route has taken and confirmed.

    Of what is not in the index, the message says what became of it, and what to do: it may be in the trash or in
    quarantine, lost, or deleted, or its sender is refused.
    """
    if not uid.strip():
        raise UsageError("an empty name is that of nobody: give a UID, a Patient ID, or a part of a name")
    if is_volume(path := Path(uid)):
        return volume_header(path)
    with root.looking() as index, root.files() as local:
        description = _Describer(index, local, root.settings).describe(uid)
    if not description:
        raise UsageError(_why_missing(uid, root))
    from node.index.look.problems import MAX_CONFLICTS

    bounds = {"patients": MAX_PATIENTS, "exclusions": MAX_EXCLUSIONS, "conflicts": MAX_CONFLICTS}
    cut = {name: bound for name, bound in bounds.items() if len(description.get(name, ())) > bound}
    description |= {name: description[name][:bound] for name, bound in cut.items()}
    description |= {"first_only": cut} if cut else {}
    return described(description, partial(_print, description))


def _why_missing(uid: str, root: Root) -> str:
    """Return what became of something that is not in the index, and what to do."""
    load_names()
    from node.receive.record import journal_report
    from node.receive.whereabouts import unknown, whereabouts

    until = monotonic() + SEARCH_SECONDS
    admitted = {peer.ae_title for peer in root.settings.peers.values()}
    with root.looking() as index, root.files() as local:
        found = whereabouts(
            index,
            root.folder,
            uid,
            seconds=SEARCH_SECONDS,
            admitted=admitted,
            is_behind=lambda: journal_report(root.folder, index.applied).waiting > 0,
            local=local,
        )
    if found is not None:
        return printable(f"{uid}: {found.sentence(minute)}")
    nothing = unknown(uid) if monotonic() < until else f"not found within {SEARCH_SECONDS:.0f} s"
    return f"{uid}: {nothing}, or under another UID, ID or name: `voxelnode series` lists what is here; check --root"


class _Describer:
    """Describes what an index has, and what the headers of instances tell."""

    def __init__(self, index: ReadIndex, local: LocalFile, settings: Settings) -> None:
        self._index, self._local, self._settings = index, local, settings

    def describe(self, uid: str) -> Row:
        """Return the level with the UID and the levels above it, or an empty row."""
        from node.index.looking import named

        patients, found = self._index.patients, named(self._index, uid)
        is_uid = any(one.uid == uid for one in found)
        return (
            self._patients([] if is_uid else patients.with_patient_id(uid), uid)
            or self._called(uid, found)
            or self._patients(patients.named(uid, MAX_PATIENTS + 1), uid)
            or self._set_aside(uid)
        )

    def _set_aside(self, uid: str) -> Row:
        """Return the conflicts of a UID of which nothing is current."""
        from node.receive.aside import with_strangers

        conflicts = with_strangers(self._index.conflicts.of_uid(uid), self._index, self._local)
        return {"level": "conflicts", "conflicts": conflicts} if conflicts else {}

    def _called(self, text: str, found: list[Named]) -> Row:
        """Return what has a UID, the end of it, or an Accession Number; refuse several, but a series in two studies."""
        from node.index.looking import the_named

        if not found:
            return {}
        is_one = len({one.uid for one in found}) == 1
        one = found[0] if is_one else the_named(self._index, text, "study", "series", "instance")
        described = {"study": self._whole_study, "series": self._series, "instance": self._image}
        return described[one.level](one.uid, one.study)

    def _image(self, uid: str, study: str) -> Row:
        row = self._index.instances.row(uid)
        assert row is not None
        above = self._series(row["series_instance_uid"], study)
        volumes = [parsed(one) for one in self._index.volumes.holding(study, uid)]
        return {
            **above, "level": "instance", "instance": row, "header": self._header(self._index.instances.current(uid)),
            "volumes": volumes, "exclusions": self._index.volumes.excluding(uid),
        }  # fmt: skip

    def _series(self, uid: str, study: str) -> Row:
        rows = [row for row in self._index.series.with_uid(uid) if row["study_instance_uid"] == study]
        header = self._header(self._index.instances.first_file(study, uid))
        series = {**self._study(study), "level": "series", "series": judged(rows[0]), "header": header}
        series["waits"] = self._waits(study, uid)
        series["exclusions"] = self._excluded(study, uid, rows[0]["revision"])
        return series | self._outcome(study, uid)

    def _excluded(self, study: str, uid: str, revision: int | None) -> list[Row]:
        """Return the instances that are not in the volumes of a series, with the reasons."""
        if revision is None:
            return []
        found = self._index.volumes.excluded(study, uid, revision, MAX_EXCLUSIONS + 1)
        return [{"revision": revision, **row} for row in found]

    def _header(self, file: InstanceFile | None) -> Row:
        """Return what the header of an instance tells, or as ``problem`` why it cannot be read."""
        if file is None:
            return {}
        try:
            return header_fields(self._local(file))
        except FileNotFoundError:
            return {"problem": "the file is missing: run `voxelnode fsck`"}
        except OSError as error:
            return {"problem": error.strerror}

    def _waits(self, study: str, uid: str) -> list[Row]:
        """Return what a series waits for, with what was learnt of each sender."""
        learnt = {row["calling_ae_title"]: row for row in self._index.senders.all()}
        waits = self._index.series.waits(study, uid)
        return [{**wait, "learnt": learnt.get(wait["calling_ae_title"])} for wait in waits]

    def _study(self, uid: str) -> Row:
        row = self._index.studies.row(uid)
        assert row is not None
        patient = {name: row.pop(name) for name in PATIENT_COLUMNS}
        header = self._header(self._index.instances.first_file(uid))
        of_study = {name: value for name, value in header.items() if name in (*OF_STUDY, "problem")}
        return {"level": "study", "patient": patient, "study": row, "header": of_study} | self._outcome(uid)

    def _whole_study(self, uid: str, _: str) -> Row:
        from node.lifecycle.expired import to_come

        sent, due = self._index.routes.sent_of_study(uid), to_come(self._index, self._settings, uid)
        return {**self._study(uid), "series_of_study": self._states(uid), "sent": sent, "to_come": due}

    def _states(self, study: str) -> list[Row]:
        """Return the series of a study, each with its state and, of what is in no volume, the reason and the remedy."""
        failures: dict[str, Row] = {}
        for row in self._index.failures.of_study(study):
            failures.setdefault(row["series_instance_uid"], row)
        from node.receive.aside import came_as, strangers_in

        undecided = {row["series_instance_uid"] for row in self._index.conflicts.about(study, None)}
        strangers = strangers_in(study, self._index, self._local)
        states = []
        for row in map(judged, self._index.series.of_study(study)):
            uid = row["series_instance_uid"]
            failure = failures.get(uid, {"reason": None, "detail": None})
            states.append(
                {name: row[name] for name in STATED}
                | {name: failure[name] for name in ("reason", "detail")}
                | {"remedy": REMEDIES.get(failure["reason"] or ""), "has_conflict": uid in undecided}
                | {"stranger": came_as(strangers[uid]) if uid in strangers else None}
            )
        return states

    def _patients(self, rows: list[Row], sought: str) -> Row:
        """Return patients with their studies, and what is in the trash of those who are called so."""
        if not rows:
            return {}
        rows = [{"number": row["id"], **{name: value for name, value in row.items() if name != "id"}} for row in rows]
        shown = rows[:MAX_PATIENTS]
        studies = self._index.studies.of_patients([row["number"] for row in shown])
        for row in studies[-MAX_READ_STUDIES:]:
            header = self._header(self._index.instances.first_file(row["study_instance_uid"]))
            row["header"] = {name: header[name] for name in (*OF_EQUIPMENT, "problem") if name in header}
            row["series_of_study"] = self._states(row["study_instance_uid"])
        return {
            "level": "patient",
            "patients": rows,
            "study_instance_uids": [row["study_instance_uid"] for row in studies],
            "studies": studies,
            "conflicts": self._elsewhere({row["patient_id"] for row in shown}),
            "trash": self._index.trash.naming(sought),
        }

    def _elsewhere(self, patient_ids: Collection[str | None]) -> list[Row]:
        """Return the undecided conflicts of instances of patients that are in the studies of others."""
        from node.receive.aside import OF_TWO_PATIENTS, with_strangers

        rows = [row for row in self._index.conflicts.of_strangers() if row["kind"] == OF_TWO_PATIENTS]
        undecided = [row for row in rows if row["decision"] is None]
        named = with_strangers(undecided, self._index, self._local)
        return [row for row in named if row["other_patient_id"] and row["other_patient_id"] in patient_ids]

    def _outcome(self, study: str, series: str | None = None) -> Row:
        """Return volumes, failures and undecided conflicts of a study or a series, and what of it is not there."""
        failures = sorted(self._index.failures.of_study(study, series), key=itemgetter("failed_at"))
        from node.receive.aside import with_strangers

        conflicts = with_strangers(self._index.conflicts.about(study, series), self._index, self._local)
        return {
            "volumes": [parsed(one) for one in self._index.volumes.current(study, series)],
            "failures": failures,
            "conflicts": conflicts,
            "trash": self._index.trash.naming(series or study),
            "lost": self._index.lost.naming(series or study),
        }


def header_fields(path: Path) -> Row:
    """Return what the header of an instance tells beyond the index, by keyword, from its first frame if it has several.

    ``orientation`` is the plane of the patient: axial, sagittal or coronal, perhaps oblique.
    """
    load_names()
    from node.dicom.dump import readable
    from node.files.reading import BoundedFile

    fields: Row = {}
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _collect(readable(file, partial(BoundedFile, max_bytes=MAX_HEADER_BYTES))[0], fields)
    ordered = {name: fields[name] for name in HEADER_FIELDS if name in fields}
    plane = plane_of(fields.get("ImageOrientationPatient"))
    return ordered | ({"orientation": plane} if plane else {})


def _collect(ds: Dataset, fields: Row) -> None:
    from node.dicom.values import items, value

    for name in HEADER_FIELDS:
        if (found := value(ds, name)) is not None:
            several = found if hasattr(found, "append") else [found]
            shown = [float(one) if isinstance(one, float) else str(one) for one in several]
            fields.setdefault(name, shown[0] if len(shown) == 1 else shown)
    for name in OF_FRAMES:
        for item in items(ds, name)[:1]:
            _collect(item, fields)


def plane_of(cosines: Any) -> str | None:
    """Return the plane of Image Orientation (Patient), six direction cosines (PS3.3 C.7.6.2.1.1)."""
    try:
        x1, y1, z1, x2, y2, z2 = map(float, cosines)
    except (TypeError, ValueError):
        return None
    normal = [abs(y1 * z2 - z1 * y2), abs(z1 * x2 - x1 * z2), abs(x1 * y2 - y1 * x2)]
    nearest = ("sagittal", "coronal", "axial")[normal.index(max(normal))]
    return nearest if max(normal) > PLAIN_COSINE else f"oblique, nearest to {nearest}"


def _told(series: Row) -> Row:
    """Return a row of a series for people: what the number of missing instances is of, and one state.

    Whether the instances of a refused series are complete reads as if it had been converted.
    """
    told = {**series, "state": state_of(series)} if series["state"] == "receiving" else dict(series)
    if series["missing_instances"] and series["expected_instances"]:
        told["missing_instances"] = f"{series['missing_instances']} of {series['expected_instances']} expected"
        told["expected_instances"] = f"{series['expected_instances']}, by {series['expected_source']}"
        del told["expected_source"]
    if series["state"] != "converted" and series["verdict"] == "complete":
        for name in ("verdict", "certainty", "verdict_rule", "verdict_reason"):
            del told[name]
    return told


def _print_states(states: Iterable[Row]) -> None:
    """Print a line for each series: its state, what it is, and why it is no volume, with what to do."""
    for row in states:
        state, why = state_of(row), row["error"]
        if row["state"] in ("refused", "failed"):
            detail = (row["detail"] or "").removesuffix("; send the missing instances")  # the remedy says it
            why = f"{row['reason']}: {detail}; {row['remedy']}" if row["reason"] else why
        elif row["verdict"] in ("incomplete", "suspect"):
            why = f"{row['verdict_reason']}; {remedy_of(row)}"
        if row["state"] == "receiving" and row["due_at"]:
            why = "; ".join(filter(None, (f"due {minute(row['due_at'])}", why)))
        conflict = "a conflict that nobody has decided: `voxelnode conflicts`" if row["has_conflict"] else ""
        received = f"received {minute(row['last_received_at'])}"
        what = ", ".join(
            (series_name(row), counted(row["instances"], "instance"), received, row["series_instance_uid"])
        )
        print_finding(f"  {state:<11}", what, *filter(None, (row["stranger"], why, conflict)))


def _print_waits(waits: list[Row]) -> None:
    columns = ("sender", "quiet at", "grace until", "open until", "learnt quiet seconds", "from series")
    rows = []
    for wait in waits:
        learnt = wait["learnt"] or {"quiet_seconds": None, "series": None}
        moments = (minute(wait[name]) for name in ("quiet_at", "grace_until", "open_until"))
        rows.append((wait["calling_ae_title"], *moments, learnt["quiet_seconds"], learnt["series"]))
    print_table("waits for its senders", columns, rows)


def _print(description: Row) -> None:
    for level in ("patient", "study", "series", "instance", "header"):
        if description.get(level):
            print(level)
            told = _told(description[level]) if level == "series" else description[level]
            if level == "instance":
                told = {name: value for name, value in told.items() if name != "file_missing"}
                told |= {"file": DAMAGED_FILE} if description[level]["file_missing"] else {}
            print_fields({f"  {name}": value for name, value in told.items() if value not in (None, "")})
    _print_states(description.get("series_of_study", ()))
    _print_sent(description.get("sent"), description.get("to_come"))
    for patient in description.get("patients", ()):
        print("patient")
        print_fields({f"  {name}": value for name, value in patient.items() if value not in (None, "")})
        _print_studies(study for study in description["studies"] if study["patient"] == patient["number"])
    if description.get("waits"):
        _print_waits(description["waits"])
    if description.get("volumes"):
        print("volumes")
        for row in description["volumes"]:
            print(f"  {row['kind']:<10}  {' x '.join(map(str, row['shape'])):<20}  {row['path']}")
    _print_reasons(description)
    if description.get("conflicts"):
        from node.receive.aside import came_as

        conflicts = [
            (row["id"], row["kind"], row["sop_instance_uid"], "; ".join(filter(None, (row["detail"], came_as(row)))))
            for row in description["conflicts"]
        ]
        print_table("conflicts that nobody has decided", ("id", "kind", "instance", "conflict"), conflicts)
    _print_absent(description)


def _print_sent(sent: list[Row] | None, to_come: list[Row] | None) -> None:
    if sent:
        rows = [tuple(row[name] for name in SENT) for row in sent]
        print_table("sent by routes: instances, and messages that are left", list(SENT.values()), rows)
    if to_come:
        rows = [
            (*(row.get(name) for name in ("route", "hook", "destination")), minute(row["due_at"]), row["reason"])
            for row in to_come
        ]
        print_table("to come by itself", ("route", "hook", "destination", "at", "reason"), rows)


def _print_reasons(description: Row) -> None:
    """Print what is in no volume, and below it what to do, once for each reason."""
    for what in ("failures", "exclusions"):
        if description.get(what):
            names = ("revision", "sop_instance_uid", "reason", "detail")
            columns = [name for name in names if any(name in row for row in description[what])]
            heads = [{"sop_instance_uid": "instance"}.get(name, name) for name in columns]
            print_table(what, heads, [tuple(row[name] for name in columns) for row in description[what]])
            for reason in dict.fromkeys(row["reason"] for row in description[what] if row["reason"] in REMEDIES):
                print_finding(f"  {reason}", REMEDIES[reason])


def _print_absent(description: Row) -> None:
    for name, bound in description.get("first_only", {}).items():
        print(f"only the first {bound} {name} are shown")
    if description.get("trash"):
        columns = ("number", "level", "uid", "deleted", "until")
        deleted = [
            (row["number"], row["level"], row["uid"], minute(row["deleted_at"]), minute(row["until"]))
            for row in description["trash"]
        ]
        print_table("in the trash: `voxelnode trash restore NUMBER`", columns, deleted)
    if description.get("lost"):
        print(
            f"lost: {counted(len(description['lost']), 'instance')}, acknowledged and not here: `voxelnode lost list`"
        )


def _print_studies(studies: Iterable[Row]) -> None:
    for study in studies:
        about = [study["study_date"], study["study_description"], f"{study['series']} series"]
        about += study.get("header", {}).values()
        if study.get("decided_at"):
            named = " ".join(filter(None, (study["stored_patient_id"], study["stored_patient_name"])))
            about += [f"its files name {named}"] if named else []
            about.append(f"decided {minute(study['decided_at'])} by {study['decided_by'] or 'an order'}")
        print(f"study {study['study_instance_uid']}  {printable(', '.join(str(part) for part in about if part))}")
        _print_states(study.get("series_of_study", ()))
