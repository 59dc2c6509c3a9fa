"""What a converting child says is believed only as far as it concerns its own series and folder."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.completeness import Completeness
from node.conversion.job import ConversionJob, Converted
from node.conversion.pool import NoAnswer, read_answer, write_answer
from node.index.rows.converted import ConvertedFile
from node.volume.reasons import Exclusion, Reason, Refusal
from node.writers.options import WriteOptions

NAME = "volume.nii.gz"


@pytest.fixture
def job(tmp_path: Path) -> ConversionJob:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / NAME).write_bytes(b"voxels")
    (tmp_path / "secret").write_bytes(b"secret")
    instances = (("1.2", tmp_path / "a"), ("1.3", tmp_path / "b"))
    return ConversionJob(instances, tmp_path / "folder", WriteOptions())


def converted() -> Converted:
    file = ConvertedFile(
        0,
        "",
        "volume",
        "nifti",
        NAME,
        (4, 4, 2),
        (1.0, 1.0, float("nan")),
        "int16",
        "even",
        "axial",
        2,
        ("a",),
        6,
        "ab" * 32,
    )
    return Converted(
        files=(file,),
        sources=((0, "1.2", 1),),
        exclusions=(Exclusion("1.3", 1, Reason.DUPLICATE_SLICE, "twice"),),
        refusals=(Refusal(Reason.INCOMPLETE, "\udc80", ("1.3",), 1),),
        completeness=Completeness("complete", "c-find", 2, "C-FIND", 2, 0, ""),
        seconds=1.0,
    )


def test_a_result_comes_back_as_it_was(job: ConversionJob) -> None:
    answer = read_answer(write_answer(converted()), job)
    assert repr(answer) == repr(converted())  # equal but for the number that is none


def _file(**changes: Any) -> bytes:
    return write_answer(replace(converted(), files=(replace(converted().files[0], **changes),)))


def _changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    answer = json.loads(write_answer(converted()))
    change(answer)
    return json.dumps(answer).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04cos\nsystem\n",
        b"[" * 100_000,
        b"{}",
        _file(path="../secret"),
        _file(path="/etc/passwd"),
        _file(path="nothing.nii"),
        _file(kind="../../etc"),
        _file(sha256="0"),
        _file(bytes=1 << 70),
        _file(sequence="Spin\nEcho"),
        _file(convolution_kernel="\udc80"),
        _file(weighting="T" * 65),
        _file(echo_time_ms=float("nan")),
        _file(affine_lps=((1.0, 0.0),)),
        _file(affine_lps=((1.0, 0.0, 0.0, float("inf")),) * 4),
        _changed(lambda answer: answer["sources"].append([0, "9.9", 1])),
        _changed(lambda answer: answer["damaged"].append(["9.9", "is missing"])),
        _changed(lambda answer: answer["references"].append(["", "1\\2"])),
        _changed(lambda answer: answer["exclusions"][0].update(reason="because")),
        _changed(lambda answer: answer["exclusions"][0].update(file="/etc/passwd")),
        _changed(lambda answer: answer["completeness"].update(state="perfect")),
        _changed(lambda answer: answer.update(seconds="soon")),
        b"1" * 1_000_000,
    ],
    ids=lambda content: repr(content[:30]),
)
def test_an_answer_that_is_none_is_refused(job: ConversionJob, content: bytes) -> None:
    with pytest.raises(NoAnswer):
        read_answer(content, job)


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_link_to_another_file_is_refused(job: ConversionJob, make: Callable[[Path, Path], None]) -> None:
    (job.folder / NAME).unlink()
    make(job.folder.parent / "secret", job.folder / NAME)
    with pytest.raises(NoAnswer, match="not a file of its own"):
        read_answer(write_answer(converted()), job)


def test_a_folder_within_the_folder_is_refused(job: ConversionJob) -> None:
    (job.folder / "more").mkdir()
    with pytest.raises(NoAnswer, match="not a file of its own"):
        read_answer(write_answer(converted()), job)
