"""What a volume is by the default rules, by rules of one's own, and by the names of ReproIn; and what is refused."""

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from node.errors import UsageError
from node.extensions.bids.names import CHOICES, ENTITIES, INDICES, KINDS, reproin, stem
from node.extensions.bids.rules import (
    NAMED_BY_RULE,
    RULE_FIELDS,
    VOLUME_FIELDS,
    DatasetTable,
    NotExported,
    Rule,
    Rules,
    SessionsTable,
    SubjectsTable,
    default_rules,
    read_rules,
    volume_facts,
)
from node.extensions.bids.state import STATE_FILE
from tests.field_tables import with_table
from tests.unit.extensions.bids.builders import AXIAL, EPI, facts, geometry, rules_of

DEFAULT = read_rules(None)

SEQUENCES: dict[str, dict[str, Any]] = {
    "epi": EPI | AXIAL,
    "mprage": {"PulseSequenceType": "MPRAGE"},
    "field map": {"PulseSequenceDetails": "%SiemensSeq%\\gre_field_mapping"},
    "asl": {"ArterialSpinLabelingType": "PCASL"},
    "-": {},
}


def named(
    rules: Rules,
    description: str,
    sequence: str = "-",
    times: int = 1,
    directions: int = 0,
    suffix: str = "",
    **more: Any,
) -> str:
    """The folder and the name of a volume without subject, or why it has none."""
    sidecar = {**SEQUENCES[sequence], **more}
    own = volume_facts(suffix, [suffix, *more.get("others", ())], sidecar, directions)
    of_volume = {"weighting": more.get("weighting"), "contrast_agent": more.get("agent")}
    of_series = facts(series_description=description, modality=more.get("modality", "MR"))
    known = {**of_series, **geometry(times), **of_volume, **own}
    try:
        found = rules.meaning_of(known).named
    except NotExported as reason:
        return str(reason)
    return f"{found.kind.datatype}/{stem(found.entities, found.kind.suffix)}"


@pytest.mark.parametrize(
    ("description", "sequence", "more", "name"),
    [
        ("t1_mprage_sag_p2_iso", "mprage", {}, "anat/T1w"),
        ("Ax T1 post Gd", "-", {}, "anat/ce-gadolinium_T1w"),
        ("t2_tse_tra", "-", {}, "anat/T2w"),
        ("t2_space_dark-fluid_sag", "-", {}, "anat/FLAIR"),
        ("AX T2 FLAIR", "-", {}, "anat/FLAIR"),
        ("TOF_3D_multi-slab", "-", {}, "anat/angio"),
        ("localizer", "-", {}, 'rule "localizer": a localizer'),
        ("rest fMRI", "epi", {"times": 200}, "func/task-rest_bold"),
        ("rest_SBRef", "epi", {}, "func/task-rest_sbref"),
        ("ep2d_diff_mddw_30", "epi", {"times": 31, "directions": 30}, "dwi/dir-AP_dwi"),
        (
            "ep2d_diff_mddw_30_ADC",
            "epi",
            {"ImageType": ["DERIVED", "ADC"]},
            'rule "derived": computed from other images',
        ),
        ("gre_field_mapping", "field map", {"suffix": "e1"}, "fmap/magnitude1"),
        ("gre_field_mapping", "field map", {"suffix": "e2"}, "fmap/magnitude2"),
        ("gre_field_mapping", "field map", {"ImageType": ["ORIGINAL", "P"]}, "fmap/phasediff"),
        ("SpinEchoFieldMap_PA", "epi", {"PhaseEncodingDirection": "j-"}, "fmap/dir-PA_epi"),
        ("pcasl_3d", "asl", {"times": 20}, "perf/asl"),
        ("FDG brain", "-", {"modality": "PT", "TracerName": "Fludeoxyglucose F^18^"}, "pet/trc-FludeoxyglucoseF18_pet"),
        ("thorax", "-", {"modality": "CT"}, 'rule "not MR or PET": BIDS has no place for this modality'),
        ("func-bold_task-faces_acq-mb4_run-1__pilot", "epi", {"times": 9}, "func/task-faces_acq-mb4_bold"),
        ("func-bold_task-faces_SBRef", "epi", {}, "func/task-faces_sbref"),
        (
            "dwi_dir-AP_acq-x",
            "epi",
            {"ImageType": ["DERIVED", "SECONDARY"]},
            'rule "derived": computed from other images',
        ),
        ("mp2rage_UNI_Images", "-", {"ImageType": ["DERIVED", "PRIMARY", "M", "UNI"]}, "anat/UNIT1"),
        ("dwi_b0_PA", "epi", {"PhaseEncodingDirection": "j-"}, "fmap/dir-PA_epi"),
        ("something", "-", {}, "no rule fits: a sequence of unknown kind, 4 x 4 x 3 x 1"),
    ],
)
def test_default_rules_name_common_protocols(description: str, sequence: str, more: dict[str, Any], name: str) -> None:
    assert named(DEFAULT, description, sequence, **more) == name


@pytest.mark.parametrize(
    ("description", "weighting", "more", "name"),
    [
        ("Sag CUBE", "FLAIR", {}, "anat/FLAIR"),
        ("MPR_3D_brain", "T1", {}, "anat/T1w"),
        ("axial", "T1", {"agent": "GADOLINIUM"}, "anat/ce-gadolinium_T1w"),
        ("axial", "T1", {"agent": "stated"}, "anat/ce-stated_T1w"),
        ("BLADE_tra", "T2", {}, "anat/T2w"),
        ("t2_space_dark-fluid_sag", "T2", {}, "anat/FLAIR"),  # a description counts first
        ("axial", "T2*", {}, "no rule fits"),  # T2*, too, is the reference of a functional series
        ("Sag CUBE", "FLAIR", {"times": 3}, "no rule fits"),
        ("2D 16Echo qT2", "T1", {"suffix": "e1", "others": ("e2",)}, "no rule fits"),
        ("B0 NS", "T1", {"others": ("real",)}, "no rule fits"),
        ("INV", "T1", {"suffix": "i1", "others": ("i2",)}, "a name in BIDS does not tell this volume (i1)"),
        ("axial", "T2", {"PulseSequenceType": "Spin Echo EPI"}, "no rule fits"),  # no diffusion, and no anatomy
        ("axial", "T1", {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "no rule fits"),
        ("axial", "T1", {"ImageType": ["DERIVED", "PRIMARY", "SUB"]}, 'rule "derived"'),
        ("loc", "T2", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, 'rule "localizer"'),
    ],
)
def test_what_no_description_names_is_named_by_its_weighting(
    description: str, weighting: str, more: dict[str, Any], name: str
) -> None:
    assert named(DEFAULT, description, weighting=weighting, **more).startswith(name)


def test_a_task_is_never_guessed() -> None:
    assert named(DEFAULT, "fMRI_nback", "epi", 100).startswith("func/bold needs the entity task: add a rule")


def test_what_separates_volumes_of_a_series_is_in_the_name_or_refused() -> None:
    assert named(DEFAULT, "rest_me", "epi", 100, suffix="e2") == "func/task-rest_echo-2_bold"
    assert named(DEFAULT, "t1_mprage", "mprage", suffix="ph") != "anat/T1w"
    assert "does not tell this volume (i2)" in named(DEFAULT, "t2_tse", suffix="i2")


@pytest.mark.parametrize("field", ["ImageType", "ImageTypeText"])
def test_noise_has_the_name_of_its_series_with_another_suffix(field: str) -> None:
    noise: dict[str, Any] = {"suffix": "norf", field: ["ORIGINAL", "PRIMARY", "M", "NOISE"]}
    assert named(DEFAULT, "rest_ap", "epi", 3, **noise) == "func/task-rest_noRF"
    assert named(DEFAULT, "rest_ap", "epi", 1, **noise) == "func/task-rest_noRF"
    assert named(DEFAULT, "func-bold_task-faces_acq-mb4", "epi", 3, **noise) == "func/task-faces_acq-mb4_noRF"
    assert named(DEFAULT, "nback", "epi", 3, **noise).startswith("func/noRF needs the entity task")


def test_own_rules_come_first_and_fill_in_facts(tmp_path: Path) -> None:
    rules = rules_of(
        """
        [[rules]]
        name = "n-back"
        where = { series_description = "*nback*", times = ">10" }
        suffix = "bold"
        entities = { task = "nback", acq = "{columns}", dir = "{phase_direction}", echo = "{echo_number}" }
        fields = { TaskDescription = "two back" }
        """,
        tmp_path,
    )
    assert named(rules, "fMRI nback", "epi", 100) == "func/task-nback_acq-4_dir-AP_bold"
    assert named(rules, "t1_mprage", "mprage") == "anat/T1w"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rules = 1", "rules: "),
        ("[dataset]\nnmae = 'x'", 'dataset.nmae: unknown key, did you mean "name"?'),
        ("[dataset]\ndates = 'moved'", "dataset.dates: must be"),
        (
            "[[rules]]\nname = 'a'\nwhere = 'modality == 1'\nsuffix = 'T1w'",
            'rule "a": where: at character 13: modality is a text',
        ),
        ("[[rules]]\nname = 'a'\nwhere = 'modalty == 1'\nsuffix = 'T1w'", 'did you mean "modality"?'),
        (
            "[[rules]]\nname = 'a'\nwhere = 'times > 1'\nsuffix = 'T1W'",
            'rule \'a\': unknown suffix "T1W", did you mean "T1w"?',
        ),
        ("[[rules]]\nname = 'a'\nwhere = 'times > 1'\nsuffix = 'sbref'", "set datatype to func or dwi"),
        ("[[rules]]\nname = 'a'\nwhere = 'times > 1'", "set either suffix, or skip"),
        (
            "[[rules]]\nname = 'a'\nwhere = 'times > 1'\nsuffix = 'T1w'\nentities = { dir = 'AP' }",
            "anat/T1w has no dir",
        ),
        (
            "[[rules]]\nname = 'a'\nwhere = 'times > 1'\nsuffix = 'T1w'\nentities = { acq = 'a-b' }",
            "letters and digits only",
        ),
        (
            "[[rules]]\nname = 'a'\nwhere = 'times > 1'\nsuffix = 'T1w'\nentities = { acq = '{tims}' }",
            'did you mean "times"?',
        ),
        (
            "[[rules]]\nname = 'a'\nwhere = 'times > 1'\nsuffix = 'T1w'\nentities = { sub = '1' }",
            'unknown entity "sub"',
        ),
        ("[[rules", "rules.toml: "),
    ],
)
def test_a_wrong_file_is_refused_with_place_rule_and_remedy(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UsageError) as refused:
        rules_of(text, tmp_path)
    assert problem in str(refused.value)


def test_names_of_reproin_are_taken_only_if_they_are_valid() -> None:
    assert reproin("anat-T1w_acq-highres__second try") is not None
    assert reproin("WIP dwi_dir-AP") is not None
    for text in (
        None,
        "",
        "anat-scout",
        "anat-T1w_dir-AP",
        "func-bold_task-a b",
        "t1_mprage",
        "x" * 5000,
        "func" + "_a" * 5000,
    ):
        assert reproin(text) is None


def test_every_fact_of_a_volume_has_a_field() -> None:
    assert volume_facts("", [""], {}, 0).keys() == {
        name for name in RULE_FIELDS if name in VOLUME_FIELDS or RULE_FIELDS[name].sidecar
    }
    assert RULE_FIELDS.keys() >= VOLUME_FIELDS.keys()


def test_kinds_know_their_entities() -> None:
    assert len({(kind.datatype, kind.suffix) for kind in KINDS}) == len(KINDS)
    assert all(kind.entities | INDICES | CHOICES.keys() <= set(ENTITIES) for kind in KINDS)


# What docs/bids.md says of rules, against the rules.


DOCUMENT = (Path(__file__).parents[4] / "docs" / "bids.md").read_text(encoding="utf-8")


def test_the_table_of_fields_is_the_current_one() -> None:
    assert with_table("bids.md") == DOCUMENT, "run: python -m tests.field_tables"


def test_every_key_is_documented_and_no_other() -> None:
    part = DOCUMENT.split("### Keys")[1].split("### Fields")[0]
    named = {}
    for line in part.splitlines():
        if line.startswith("| `["):
            table, keys, *_ = line.removeprefix("| `").split(" | ")
            named.setdefault(table.strip("[]`"), set()).update(re.findall(r"`(\w+)`", keys))
    tables = {"dataset": DatasetTable, "subjects": SubjectsTable, "sessions": SessionsTable, "rules": Rule}
    assert named == {name: set(table.model_fields) for name, table in tables.items()}
    assert {word for word in re.findall(r"`(\w+)`", part) if word in NAMED_BY_RULE} == NAMED_BY_RULE


def test_the_example_is_valid_and_the_default_rules_stand_alone(tmp_path: Path) -> None:
    example = DOCUMENT.split("and subjects of a table:\n")[1].split("### Keys")[0]
    rules = rules_of(dedent(example), tmp_path)
    assert rules.subjects.map == tmp_path / "subjects.csv"
    own = rules.own
    assert own == example.count("[[rules]]")
    copied = rules_of("[dataset]\ndefault_rules = false\n" + default_rules(), tmp_path)
    assert [rule.name for rule, _ in copied.rules] == [rule.name for rule, _ in rules.rules[own:]]


def test_the_state_file_is_named() -> None:
    assert f"`{STATE_FILE}`" in DOCUMENT
