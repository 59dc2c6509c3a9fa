"""Physiological recordings become tables whose every sample is where its tick says, or are refused with a reason."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset
from pydicom.uid import generate_uid

from node.conversion.job import Converted
from node.extensions.spectroscopy import RAW_DATA
from tests import make
from tests.signals import FIRST_TICK, converted, pulse_and_breath, recording, samples_text, times_text


def table_of(
    series: Sequence[FileDataset], folder: Path, name: str = "physio"
) -> tuple[list[list[str]], dict[str, Any], Converted]:
    result, out = converted(series, folder)
    assert not result.refusals, result.refusals
    lines = gzip.decompress((out / f"{name}.tsv.gz").read_bytes()).decode().splitlines()
    return [line.split("\t") for line in lines], json.loads((out / f"{name}.json").read_text()), result


def refused(ds: FileDataset, folder: Path) -> tuple[str, str]:
    result, _ = converted([ds], folder)
    assert not result.files
    [refusal] = result.refusals
    assert refusal.sop_instance_uids == (ds.SOPInstanceUID,)
    return refusal.reason.value, refusal.detail


def test_every_sample_is_at_its_tick_and_holds_until_the_next(tmp_path: Path) -> None:
    table, sidecar, result = table_of([recording(pulse_and_breath(), rows=32)], tmp_path)
    assert sidecar["Columns"] == ["cardiac", "respiratory", "trigger"]
    assert (sidecar["SamplingFrequency"], sidecar["StartTime"]) == (400, -1)
    for tick in range(0, 1500, 37):
        assert table[tick] == [
            str(1000 + tick // 2),
            str(5000 + tick // 8),
            "1" if (tick - 400) % 400 == 0 < tick else "0",
        ]
    assert [tick for tick, line in enumerate(table) if line[2] == "1"] == [400, 800, 1200]
    [file] = result.files
    assert (file.kind, file.format, file.shape) == ("physio", "tsv", (3, len(table)))
    assert result.sources[0][1:] == (recording_uid(result), 1)


def recording_uid(result: Converted) -> str:
    [(_, uid, _)] = result.sources
    return uid


def test_a_gap_is_not_filled_and_a_mark_of_the_scanner_is_no_sample(tmp_path: Path) -> None:
    """What the scanner detects is a line of its own with the value 2048, which would be a spike in the pulse."""
    samples = [(FIRST_TICK + tick, "PULS", tick + 1) for tick in (0, 2, 3, 4, 6, 7, 9, 20, 22)]
    content = samples_text("PULS", 2, samples).replace(" PULS 4\n", " PULS 2048 PULS_TRIGGER\n")
    table, sidecar, _ = table_of([recording({"Info": times_text([FIRST_TICK]), "PULS": content})], tmp_path)
    assert sidecar["Columns"] == ["cardiac", "cardiac_trigger", "trigger"]
    cardiac = [line[0] for line in table]
    assert cardiac[:11] == ["1", "1", "3", "3", "5", "5", "7", "8", "8", "10", "10"]
    assert cardiac[11:20] == ["n/a"] * 9
    assert cardiac[20:] == ["21", "21", "23"]
    assert [tick for tick, line in enumerate(table) if line[1] == "1"] == [3]
    unknown = content.replace("PULS_TRIGGER", "OTHER")
    assert refused(recording({"Info": times_text([FIRST_TICK]), "PULS": unknown}), tmp_path)[0] == "unproven-layout"


def test_the_external_input_is_zero_between_its_signals(tmp_path: Path) -> None:
    samples = [(FIRST_TICK + tick, "EXT", 1) for tick in (3, 6)]
    texts = {"Info": times_text([FIRST_TICK]), "EXT": samples_text("EXT", 1, samples)}
    table, sidecar, _ = table_of([recording(texts)], tmp_path)
    assert sidecar["Columns"] == ["external", "trigger"]
    assert [line[0] for line in table] == ["0", "0", "0", "1", "0", "0", "1"]


def test_channels_without_a_signal_are_left_out(tmp_path: Path) -> None:
    texts = pulse_and_breath()
    texts["RESP"] = samples_text("RESP", 8, [(FIRST_TICK, "RESP", 0)])
    _, sidecar, _ = table_of([recording(texts, rows=32)], tmp_path)
    assert sidecar["Columns"] == ["cardiac", "trigger"]
    silent = {"Info": texts["Info"], "RESP": texts["RESP"]}
    assert refused(recording(silent, rows=32), tmp_path)[0] == "not-an-image"


def test_xa_has_its_recordings_elsewhere(tmp_path: Path) -> None:
    classic = recording(pulse_and_breath(), rows=32)
    kind = ["ORIGINAL", "PRIMARY", "RAWDATA", "NONE"]
    raw = make.instance(sop_class_uid=RAW_DATA, modality="MR", ImageType=kind, AcquisitionNumber=32)
    raw.add_new((0x7FE1, 0x0010), "LO", "SIEMENS MR IMA")
    raw.add_new((0x7FE1, 0x1010), "OB", classic[0x7FE1, 0x1010].value)
    assert table_of([raw], tmp_path)[0] == table_of([classic], tmp_path)[0]
    other = make.instance(sop_class_uid=RAW_DATA, modality="MR", ImageType=kind)
    assert refused(other, tmp_path)[0] == "not-an-image"


def document(volumes: int = 3, step: int = 400, *, more: str = "") -> bytes:
    """Return a recording as XA has it, like `pulse_and_breath`."""
    first = FIRST_TICK - 400
    count = (volumes * step + 400) // 2
    slices = "".join(
        f'<Volume ID="{2 * volume + echo}" ECO_ID="{echo}"><AnatomSlice ID="0" '
        f'ACQUISITION_TIME_TICS="{FIRST_TICK + step * volume + 10 * echo}"/></Volume>'
        for volume in range(volumes)
        for echo in (0, 1)
    )
    pulse = "".join(f'<PMU TIME_TICS="{first + 2 * index}" DATA="{1000 + index}"/>' for index in range(count))
    breath = "".join(f'<PMU TIME_TICS="{first + 8 * index}" DATA="{5000 + index}"/>' for index in range(count // 4))
    text = (
        f'<?xml version="1.0" encoding="ISO-8859-1"?>{more}<PhysioData><VolumeAcquisitionDescription>{slices}'
        f'</VolumeAcquisitionDescription><PhysioStream TYPE="PULS">{pulse}</PhysioStream>'
        f'<PhysioStream TYPE="RESP">{breath}</PhysioStream></PhysioData>\n\0'
    )
    return gzip.compress(text.encode("latin-1"))


def raw_data(data: bytes) -> FileDataset:
    ds = make.instance(sop_class_uid=RAW_DATA, modality="MR", ImageType=["ORIGINAL", "PRIMARY", "RAWDATA", "NONE"])
    ds.add_new((0x7FE1, 0x0010), "LO", "SIEMENS MR IMA")
    ds.add_new((0x7FE1, 0x1010), "OB", data + b"\0" * (len(data) % 2))
    return ds


def test_the_document_of_xa_gives_what_the_logs_give(tmp_path: Path) -> None:
    table, sidecar, _ = table_of([raw_data(document())], tmp_path)
    assert table == table_of([recording(pulse_and_breath(), rows=32)], tmp_path)[0]
    assert (sidecar["StartTime"], sidecar["volumes"]) == (-1, 3)


def test_a_document_that_is_cut_off_or_grows_is_refused(tmp_path: Path) -> None:
    whole = document()
    assert refused(raw_data(whole[: len(whole) // 2]), tmp_path)[0] == "contradictory"
    grown = document(more='<!DOCTYPE PhysioData [<!ENTITY a "b">]>')
    assert "entities" in refused(raw_data(grown), tmp_path)[1]
    assert refused(raw_data(document(volumes=0)), tmp_path)[0] == "incomplete"
    assert refused(raw_data(gzip.compress(b"something else")), tmp_path)[0] == "not-an-image"


def test_several_recordings_of_a_series_have_files_of_their_own(tmp_path: Path) -> None:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    series = [recording(pulse_and_breath(), rows=32, InstanceNumber=number, **uids) for number in (1, 2)]
    result, _ = converted(series, tmp_path)
    assert [file.path for file in result.files] == ["physio_s1.tsv.gz", "physio_s2.tsv.gz"]


def test_a_recording_that_ends_early_is_doubtful(tmp_path: Path) -> None:
    texts = pulse_and_breath()
    texts["Info"] = times_text([FIRST_TICK, FIRST_TICK + 400], planned=5)
    *_, result = table_of([recording(texts, rows=32)], tmp_path)
    assert (result.completeness.state, result.completeness.reason) == (
        "suspect",
        "2 of 5 volumes that the recording announces; 1 instance received",
    )


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda texts: texts | {"RESP": texts["RESP"].replace("3333", "9999")}, "contradictory", "UUIDs differ"),
        (lambda texts: {"PULS": texts["PULS"]}, "incomplete", "0 lists of the times"),
        (lambda texts: texts | {"PULS": texts["PULS"].replace("EJA_1", "EJA_2")}, "unproven-layout", "EJA_2"),
        (lambda texts: texts | {"PULS": texts["PULS"].replace(" 1001\n", "\n")}, "contradictory", "lacks columns"),
        (lambda texts: texts | {"PULS": texts["PULS"].replace(" 1001\n", " -1\n")}, "contradictory", "not a number"),
        (lambda texts: texts | {"PULS": texts["PULS"].replace("SampleTime  = 2", "")}, "incomplete", "SampleTime"),
        (
            lambda texts: texts | {"PULS": texts["PULS"].replace(str(FIRST_TICK - 398), str(FIRST_TICK + 9))},
            "contradictory",
            "do not ascend",
        ),
        (
            lambda texts: texts | {"RESP": texts["RESP"].replace(str(FIRST_TICK - 400), "17")},
            "contradictory",
            "more than 3 hours",
        ),
        (lambda texts: texts | {"Info": texts["Info"].replace("\n1 ", "\n7 ")}, "incomplete", "lacks a volume"),
    ],
)
def test_logs_that_contradict_each_other_are_refused(tmp_path: Path, change: Any, reason: str, words: str) -> None:
    found, detail = refused(recording(change(pulse_and_breath()), rows=32), tmp_path)
    assert found == reason
    assert words in detail


def test_blocks_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    ds = recording(pulse_and_breath(), rows=32)
    ds.AcquisitionNumber = 7
    assert refused(ds, tmp_path)[0] == "contradictory"
    ds = recording(pulse_and_breath(), rows=32)
    ds[0x7FE1, 0x1010].value = ds[0x7FE1, 0x1010].value[: 80 * 1024]
    assert refused(ds, tmp_path)[0] == "contradictory"
    ds = recording({}, rows=32)
    assert "holds no log" in refused(ds, tmp_path)[1]
