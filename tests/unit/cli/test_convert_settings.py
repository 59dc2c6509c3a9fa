"""[convert] of a conversion without a node: alone if nothing else is configured, else checked with all tables."""

import os
from pathlib import Path

import pytest

from node.cli.convert.convert import Unconfigured, _settings
from node.cli.options import Configured
from node.conversion.job import limits
from node.errors import UsageError
from node.settings.section import Convert
from node.writers.options import write_options


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("VOXELNODE_")]:
        monkeypatch.delenv(name)


def test_options_alone_are_the_settings() -> None:
    section, _ = _settings(
        Configured(None), {"--format": ("convert.formats", ("mhd",)), "--workers": ("convert.workers", 2)}
    )
    assert (section.formats, section.workers, section.compress, section.thumbnails) == (("mhd",), 2, True, False)


def test_what_is_not_configured_is_as_pydantic_has_it() -> None:
    given = {"--compress": ("convert.compress", False), "--format": ("convert.formats", ("nrrd",))}
    section, _ = _settings(Configured(None), given)
    own = Convert(formats=("nrrd",), thumbnails=False, compress=False)
    assert write_options(section) == write_options(own)
    assert (limits(section), section.workers) == (limits(own), own.workers)
    assert isinstance(section, Unconfigured)


def test_a_wrong_option_is_explained() -> None:
    with pytest.raises(UsageError, match=r"--format: 'niftii': must be 'nifti'"):
        _settings(Configured(None), {"--format": ("convert.formats", ["niftii"])})


@pytest.mark.parametrize("workers", [0, 1, 64, 65])
def test_as_many_workers_as_in_a_configuration(workers: int) -> None:
    given = {"--workers": ("convert.workers", workers)}
    if workers in (1, 64):
        assert isinstance(_settings(Configured(None), given)[0], Unconfigured)
    else:
        with pytest.raises(UsageError, match="--workers"):
            _settings(Configured(None), given)


def test_options_are_above_the_file_of_the_folder() -> None:
    Path("voxelnode.toml").write_text('[convert]\nformats = ["nrrd"]\nworkers = 3\n', encoding="utf-8")
    section, _ = _settings(Configured(None), {"--workers": ("convert.workers", 2)})
    assert (section.formats, section.workers, section.thumbnails) == (("nrrd",), 2, False)


def test_a_mistake_in_another_table_or_variable_is_still_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("voxelnode.toml").write_text("[dicom]\nport = 70000\n", encoding="utf-8")
    with pytest.raises(UsageError, match="port: 70000"):
        _settings(Configured(None), {})
    Path("voxelnode.toml").unlink()
    monkeypatch.setenv("VOXELNODE_DICOM_PORT", "1")
    with pytest.raises(UsageError, match="two underscores"):
        _settings(Configured(None), {})
    monkeypatch.delenv("VOXELNODE_DICOM_PORT")
    Path("other.toml").write_text("[convert]\nworkers = 4\n", encoding="utf-8")
    assert _settings(Configured(Path("other.toml")), {})[0].workers == 4
