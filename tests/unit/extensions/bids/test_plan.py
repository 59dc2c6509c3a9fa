"""Names of all volumes of a subject: sessions, runs, field maps, and what stays when more arrives."""

from dataclasses import replace
from pathlib import Path

import pytest

from node.children.pseudonyms import PseudonymKey
from node.errors import UsageError
from node.extensions.bids.plan import Planner
from node.extensions.bids.planned import SessionState, SubjectPlan, SubjectSeries, WrittenVolume
from node.extensions.bids.rules import read_rules
from node.extensions.bids.subjects import Pseudonyms, read_map
from tests.unit.extensions.bids.builders import AXIAL, EPI, Scanner, rules_of

PSEUDONYMS = Pseudonyms(PseudonymKey("test", b"k" * 32))
PLANNER = Planner(read_rules(None), None, PSEUDONYMS)


@pytest.fixture
def scanner(tmp_path: Path) -> Scanner:
    return Scanner(tmp_path)


def stems(plan: SubjectPlan) -> list[str]:
    return sorted(volume.path.removesuffix(".nii.gz") for each in plan.sessions.values() for volume in each.volumes)


def states_of(plan: SubjectPlan) -> dict[str, SessionState]:
    """The states of the sessions once the plan was carried out."""
    return {
        label: SessionState(
            session.studies,
            {
                each.stem: WrittenVolume(each.mark, each.volume.stack, each.volume.sha256, {})
                for each in session.volumes
            },
        )
        for label, session in plan.sessions.items()
    }


def test_sessions_are_numbered_by_date_and_keep_their_numbers(scanner: Scanner) -> None:
    later, latest, first = (scanner.series("t1_mprage", study=study) for study in (5, 9, 1))
    plan = PLANNER.plan("a", [replace_study(latest, 9), replace_study(later, 5)], {})
    assert stems(plan) == ["sub-a/ses-01/anat/sub-a_ses-01_T1w", "sub-a/ses-02/anat/sub-a_ses-02_T1w"]
    states = states_of(plan)
    again = PLANNER.plan("a", [replace_study(first, 1), replace_study(latest, 9), replace_study(later, 5)], states)
    assert states_of(again)["01"] == states["01"]
    assert states_of(again)["02"] == states["02"]
    assert stems(again)[2] == "sub-a/ses-03/anat/sub-a_ses-03_T1w", "a study that comes late has the next number"


def replace_study(series: SubjectSeries, day: int) -> SubjectSeries:
    return replace(series, study_started=series.study_started.replace(day=day))


def test_runs_are_counted_by_time_and_never_change(scanner: Scanner) -> None:
    first, second, third = (scanner.series("t1_mprage") for _ in range(3))
    alone = PLANNER.plan("a", [second], {})
    assert stems(alone) == ["sub-a/ses-01/anat/sub-a_ses-01_T1w"]
    two = PLANNER.plan("a", [second, third], states_of(alone))
    assert runs(two) == {"2": "1", "3": "2"}
    three = PLANNER.plan("a", [first, second, third], states_of(two))
    assert runs(three) == {"2": "1", "3": "2", "1": "3"}, "one that comes late takes no run away"
    assert runs(PLANNER.plan("a", [first, second, third], {})) == {"1": "1", "2": "2", "3": "3"}
    assert runs(PLANNER.plan("a", [third], states_of(two))) == {"3": "2"}


def runs(plan: SubjectPlan) -> dict[str, str]:
    volumes = plan.sessions["01"].volumes
    return {str(volume.series.facts["series_number"]): volume.named.entities["run"] for volume in volumes}


def test_field_maps_serve_the_nearest_images_with_their_shim(scanner: Scanner) -> None:
    shim, other = {"ShimSetting": [1, 2]}, {"ShimSetting": [3, 4]}
    readout = {"TotalReadoutTime": 0.05}
    magnitudes = {"e1": {"EchoTime": 0.005}, "e2": {"EchoTime": 0.0075}}
    series = [
        scanner.series("gre_field_mapping", "e1", "e2", sidecars=magnitudes, **shim),
        scanner.series("gre_field_mapping", ImageType=["ORIGINAL", "PRIMARY", "P"], EchoTime=0.0075, **shim),
        scanner.series("rest fMRI", times=9, **EPI, **AXIAL, **readout, **shim),
        scanner.series("SpinEchoFieldMap_AP", **EPI, **AXIAL, **readout, **other),
        scanner.series("ep2d_diff", times=2, gradients=True, **EPI, **AXIAL, **readout, **other),
    ]
    plan = PLANNER.plan("a", series, {})
    by_suffix = {volume.named.kind.suffix: volume for volume in plan.sessions["01"].volumes}
    assert plan.skipped == []
    difference = by_suffix["phasediff"].fields
    assert (difference["EchoTime1"], difference["EchoTime2"]) == (0.005, 0.0075)
    assert difference["IntendedFor"] == ["bids::sub-a/ses-01/func/sub-a_ses-01_task-rest_bold.nii.gz"]
    assert by_suffix["magnitude1"].fields["B0FieldIdentifier"] == difference["B0FieldIdentifier"] == "ses01_gre"
    assert by_suffix["bold"].fields["B0FieldSource"] == "ses01_gre"
    assert by_suffix["epi"].fields["IntendedFor"] == ["bids::sub-a/ses-01/dwi/sub-a_ses-01_dir-AP_dwi.nii.gz"]
    assert by_suffix["dwi"].fields["B0FieldSource"] == "ses01_pepolar"
    assert set(by_suffix["dwi"].files(anonymous=True)) == {".nii.gz", ".json", ".bval", ".bvec"}


def test_what_bids_requires_and_images_do_not_state_is_asked_for(scanner: Scanner, tmp_path: Path) -> None:
    without = scanner.series("rest fMRI", times=9, PulseSequenceType="Gradient Echo EPI")
    untold = scanner.series("pcasl", times=5, ArterialSpinLabelingType="PCASL")
    [first, second] = PLANNER.plan("a", [without, untold], {}).skipped
    assert "aslcontext" in first.reason
    assert "RepetitionTime|VolumeTiming" in second.reason
    assert 'now fits "rest"' in second.reason
    rules = rules_of(
        """
        [[rules]]
        name = "labelled"
        where = 'labelling == "PCASL"'
        suffix = "asl"
        aslcontext = { first = ["m0scan"], then = ["control", "label"] }
        [rules.fields]
        BackgroundSuppression = true
        PostLabelingDelay = 1.8
        LabelingDuration = 1.5
        RepetitionTimePreparation = 4.0
        EchoTime = 0.01
        MagneticFieldStrength = 3
        MRAcquisitionType = "3D"
        """,
        tmp_path,
    )
    [volume] = Planner(rules, None, PSEUDONYMS).plan("a", [untold], {}).sessions["01"].volumes
    assert (volume.fields["M0Type"], volume.fields["TotalAcquiredPairs"]) == ("Included", 2)
    table = volume.files(anonymous=True)["context.tsv"]
    assert table == b"volume_type\nm0scan\ncontrol\nlabel\ncontrol\nlabel\n"


def test_only_whole_series_of_one_patient_with_a_place_are_exported(scanner: Scanner) -> None:
    whole = scanner.series("t1_mprage")
    [volume] = whole.volumes
    uneven = replace(whole, volumes=(replace(volume, geometry={**volume.geometry, "geometry": "irregular"}),))
    mixed = replace(whole, volumes=(replace(volume, geometry={**volume.geometry, "warnings": ["several-patients"]}),))
    suspect = replace(whole, facts={**whole.facts, "verdict": "suspect"}, verdict_reason="nobody knows")
    gone = replace(whole, volumes=(replace(volume, file=volume.file.with_name("gone.nii.gz")),))
    unread = replace(whole, problem="it has no images")
    reasons = [PLANNER.plan("a", [each], {}).skipped[0].reason for each in (uneven, mixed, suspect, gone, unread)]
    assert [reason.split(":")[0] for reason in reasons] == [
        "its geometry is irregular",
        "its images are of several patients",
        "it is suspect",
        "its files were replaced or removed meanwhile",
        "it has no images",
    ]


def test_sidecars_name_nobody_unless_they_may(scanner: Scanner, tmp_path: Path) -> None:
    reported = {"SeriesInstanceUID": "1.2.3", "SeriesNumber": 747197466, "warnings": [], "EchoTime": 0.003}
    series = scanner.series("t1_mprage Jane Doe", **reported)
    [volume] = PLANNER.plan("a", [series], {}).sessions["01"].volumes
    assert volume.fields.keys() == {"Modality", "AcquisitionTime", "EchoTime"}
    named = rules_of("[dataset]\nanonymous = false\ndates = 'omitted'", tmp_path)
    [volume] = Planner(named, None, PSEUDONYMS).plan("a", [series], {}).sessions["01"].volumes
    assert volume.fields["SeriesDescription"] == "t1_mprage Jane Doe"
    assert "SeriesInstanceUID" in volume.fields
    assert "AcquisitionTime" not in volume.fields


def test_a_table_names_subjects_and_sessions(scanner: Scanner, tmp_path: Path) -> None:
    table = tmp_path / "subjects.csv"
    table.write_text("patient_id,study_date,subject,session\nP1,,sub-01,\nP1,2026-02-01,01,ses-followup\n")
    read = read_map(table)
    planner = Planner(read_rules(None), read, PSEUDONYMS)
    dated = scanner.series("t1_mprage", study=1)
    known = replace(dated, facts={**dated.facts, "patient_id": "P1"})
    assert read.subject("P1") == "01"
    assert stems(planner.plan("01", [known], {})) == ["sub-01/ses-followup/anat/sub-01_ses-followup_T1w"]
    for text, problem in (
        ("patient_id\nP1\n", "column 'subject' is missing"),
        ("patient_id,subject,age\nP1,1,3\n", "column 'age'"),
        ("patient_id,subject\nP1,a-b\n", "line 2: subject has letters and digits only"),
        ("patient_id,subject\nP1,01\nP1,02\n", "line 3: the patient has the subject '01' above"),
        ("patient_id,subject,study_date\nP1,01,2026-02-01\nP1,02,\n", "each row needs study_instance_uid, acc"),
        ("patient_id,subject\nP1,a\nP2,A\n", "line 3: 'A' differs from a label above in case alone"),
    ):
        table.write_text(text)
        with pytest.raises(UsageError, match=problem):
            read_map(table)
