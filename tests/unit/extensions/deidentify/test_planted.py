"""One person in every attribute of the standard, in instances of every kind: nothing of the person leaves."""

from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.uid import (
    MPEG2MPML,
    BasicVoiceAudioWaveformStorage,
    ComprehensiveSRStorage,
    CTImageStorage,
    GeneralAudioWaveformStorage,
    GeneralECGWaveformStorage,
    RTPlanStorage,
    VideoEndoscopicImageStorage,
)

from node.extensions.deidentify.deidentification import RefusalReason
from node.extensions.deidentify.files import pieces
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import Option
from node.extensions.deidentify.text import Identities
from node.files.reading import read_instance
from tests import make
from tests.planted import GIVEN, NAME, NUMBER, left_in, planted, where
from tests.unit.extensions.deidentify.orders import KEY, how, refusal_of

EVERYTHING = frozenset(Option) - {Option.FULL_DATES, Option.UIDS}

OPTIONS = {"basic": (), "descriptors": (Option.DESCRIPTORS,), "all": tuple(EVERYTHING)}
KINDS = [CTImageStorage, RTPlanStorage, GeneralECGWaveformStorage, ComprehensiveSRStorage]

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's, of values that are planted where they do not belong


def what_leaves(ds: Dataset, folder: Path, *options: Option) -> list[Any]:
    ds.save_as(folder / "1.dcm", enforce_file_format=True)
    content = b"".join(pieces(deidentified(read_instance(folder / "1.dcm"), how(*options))))
    return where(dcmread(BytesIO(content))) + left_in(content)


@pytest.mark.sample(0, 2)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(
            kind,
            options,
            id=f"{kind.keyword}-{name}",
            marks=[] if kind == CTImageStorage or name == "all" else pytest.mark.long,
        )
        for kind in KINDS
        for name, options in OPTIONS.items()
    ],
)
def test_nothing_of_a_person_leaves(tmp_path: Path, kind: str, options: tuple[Option, ...]) -> None:
    attributes: dict[str, Any] = {}
    if kind == ComprehensiveSRStorage:
        options = (*options, Option.STRUCTURED)
        attributes["ContentSequence"] = [
            make.content_item("CONTAINS", "PNAME", ("121008", "DCM", "Person"), PersonName=f"{NAME}^{GIVEN}"),
            make.content_item("CONTAINS", "TEXT", ("121071", "DCM", "Finding"), TextValue=f"Dr {NAME}, Feb 3 1971"),
            make.measured((NUMBER, "99LOCAL", f"of {NAME}"), NUMBER, "mm"),
        ]
    assert what_leaves(planted(kind, **attributes), tmp_path, *options) == []


def waveform(**attributes: Any) -> Dataset:
    group = make.dataset(WaveformSampleInterpretation="SS", SamplingFrequency="500", WaveformData=bytes(8))
    make.changed(group, **attributes)
    return make.instance(sop_class_uid=GeneralECGWaveformStorage, modality="ECG", WaveformSequence=[group])


def test_voices_are_refused_unless_somebody_has_listened() -> None:
    voice = make.dataset(ChannelSourceSequence=[make.coded("109111", "DCM", "Operator's narrative")])
    lead = make.dataset(ChannelSourceSequence=[make.coded("2:1", "MDC", "Lead I")])
    own = make.dataset(ChannelSourceSequence=[make.coded("MIC1", "99VENDOR", "Microphone")])
    for ds in (
        make.instance(sop_class_uid=BasicVoiceAudioWaveformStorage, modality="AU"),
        make.instance(sop_class_uid=GeneralAudioWaveformStorage, modality="AU"),
        make.instance(sop_class_uid=VideoEndoscopicImageStorage, transfer_syntax_uid=MPEG2MPML),
        waveform(WaveformSampleInterpretation="MB"),
        waveform(ChannelDefinitionSequence=[voice]),
        waveform(SamplingFrequency="8000"),
        waveform(SamplingFrequency="8000", ChannelDefinitionSequence=[own]),
        waveform(SamplingFrequency="8000", ChannelDefinitionSequence=[lead, make.dataset()]),
        waveform(SamplingFrequency="8000", ChannelDefinitionSequence=[lead], NumberOfWaveformChannels=2),
    ):
        assert refusal_of(deepcopy(ds), how(*EVERYTHING)) is RefusalReason.VOICE
        assert deidentified(ds, how(allowed=frozenset((RefusalReason.VOICE,)))).PatientIdentityRemoved == "YES"
    measured = waveform(SamplingFrequency="8000", ChannelDefinitionSequence=[lead], NumberOfWaveformChannels=1)
    for ds in (waveform(), measured):
        assert deidentified(ds, how()).PatientIdentityRemoved == "YES"


def test_a_voice_within_a_sequence_goes(tmp_path: Path) -> None:
    group = make.dataset(WaveformSampleInterpretation="MB", WaveformBitsAllocated=8, WaveformData=b"what is said")
    [ds] = make.ct_series(1)
    ds.ReferencedImageSequence = [make.dataset(WaveformSequence=[group])]
    ds.save_as(tmp_path / "1.dcm", enforce_file_format=True)
    assert b"what is said" not in b"".join(pieces(deidentified(read_instance(tmp_path / "1.dcm"), how(*EVERYTHING))))


def test_a_number_that_32_bits_round_is_found_as_they_hold_it(tmp_path: Path) -> None:
    [ds] = make.ct_series(1, PatientID="48151623", RecommendedDisplayFrameRateInFloat=48151623.0)
    ds.save_as(tmp_path / "1.dcm", enforce_file_format=True)
    assert read_instance(tmp_path / "1.dcm").RecommendedDisplayFrameRateInFloat == 48151624
    assert deidentified(read_instance(tmp_path / "1.dcm"), how()).RecommendedDisplayFrameRateInFloat == 0


def test_only_uids_that_the_standard_lists_stay_and_never_those_of_instances() -> None:
    made_up, listed = "1.2.840.10008.73518264.1", "1.2.840.10008.1.4.1.1"
    ds = make.instance(
        StudyInstanceUID=listed,
        FrameOfReferenceUID=listed,
        SeriesInstanceUID=made_up,
        PaletteColorLookupTableUID="1.2.840.10008.1.5.1",
        ReferencedSOPClassUID=made_up,
        RelatedGeneralSOPClassUID=["1.3.12.2.1107.5.9.1", f"1.2.276.0.{NUMBER}.4"],
        CodingSchemeUID="2.16.840.1.113883.6.96",
        ImageComments=f"CT {made_up} {listed}",
        Manufacturer=f"Example {made_up}",
    )
    new = deidentified(ds, how(Option.DESCRIPTORS))
    assert new.StudyInstanceUID.startswith("2.25.")
    assert new.FrameOfReferenceUID == new.StudyInstanceUID
    assert new.SeriesInstanceUID == new.ReferencedSOPClassUID == KEY.uid(made_up)
    assert new.PaletteColorLookupTableUID == "1.2.840.10008.1.5.1"
    assert [uid.startswith("2.25.") for uid in new.RelatedGeneralSOPClassUID] == [False, True]
    assert new.CodingSchemeUID == "2.16.840.1.113883.6.96"
    assert NUMBER not in new.ImageComments
    assert new.Manufacturer == "Example"
    assert refusal_of(make.instance(sop_class_uid=made_up), how()) is RefusalReason.NO_IDENTITY


def test_numbers_of_a_person_are_no_numbers_of_an_image() -> None:
    ds = make.instance(
        PatientID="0012345",
        PatientBirthDate="19710203",
        KVP="12345",
        ExposureTime="120",
        RescaleSlope="1",
        TableHeight="3021971",
        ImagePositionPatient=["1.5", "12345.0", "3"],
        RealWorldValueSlope=12345.0,
        RealWorldValueIntercept=12345.5e-3,
    )
    for tag, text in ((0x00180081, b"1971-02-03"), (0x00181060, b"030-8675309 ")):
        ds[tag] = RawDataElement(BaseTag(tag), "DS", len(text), text, 0, False, True)
    new = deidentified(ds, how())
    assert (new.KVP, new.ExposureTime, new.EchoTime, new.TriggerTime, new.TableHeight) == (0, 120, 0, 0, 0)
    assert list(new.ImagePositionPatient) == [1.5, 0, 3]
    assert (new.RealWorldValueSlope, new.RealWorldValueIntercept) == (0, 12345.5e-3)


DATES = "born Feb 3 1971", "born 3. Februar 1971", "3-FEB-71", "February 3rd, 1971", "03/02/1971", "1971-02-03"
WAYS = "tel +49 (30) 867-5309", "617-555-0123", "mail o.q@example.org", "http://pacs.example/17?x=3"


@pytest.mark.parametrize("text", [*DATES, *WAYS])
def test_what_is_an_identity_by_its_form_leaves_in_no_text(text: str) -> None:
    """Of another person than that of the instance, whose birth date is not known."""
    ds = make.instance(ImageComments=f"Chest {text} CT", ManufacturerModelName=f"Model 7 {text}", RTImageLabel=text)
    new = deidentified(ds, how(Option.DESCRIPTORS))
    assert new.ImageComments == "Chest CT"
    assert new.ManufacturerModelName in ("Model 7", "Model 7 born", "Model 7 tel", "Model 7 mail")
    assert new.RTImageLabel == "ANON"


@pytest.mark.slow
@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["a", "1", "a.", "a@", "+1", "mar_", "3 "])
def test_a_long_text_is_searched_in_the_time_of_its_length(piece: str) -> None:
    assert len(Identities([NAME], ["19710203"]).cleaned(piece * 100_000)) < 300_000
