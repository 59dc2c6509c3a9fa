"""The ways in which copies that leave by routes and downloads lose identities.

Each is a table [deidentify.NAME] of the configuration. This module loads neither NumPy nor codecs.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from pydicom import Dataset
from pydicom.filereader import read_file_meta_info

from node.children.pseudonyms import read_keys
from node.dicom.values import text
from node.errors import UsageError, nearest
from node.extensions.deidentify.deidentification import (
    BurnedInText,
    Deidentification,
    NotDeidentified,
    RefusalReason,
    allowed,
    read_rules,
)
from node.extensions.deidentify.profile import Profile, options
from node.extensions.deidentify.settings import DeidentifySettings
from node.files.reading import read_instance
from node.settings.model import Settings
from node.volume.read.transfer_syntaxes import NATIVE

MAX_COMPRESSED_BYTES = 750_000_000
"""Largest file with compressed frames that is de-identified: they are held in memory three times, and a child may use
4 GB. Native frames are copied from file to file."""

SEARCH_SECONDS = 40.0
"""Processor time in which text is looked for in an instance: less than that of a child, whose end would say less, or
whose deadline would stop a whole route on a machine with other work."""


@dataclass(frozen=True)
class DeidentifyWay(Deidentification):
    """A de-identification with the steps that a child takes; see `node.children.forwarding.Way`."""

    @property
    def reasons(self) -> Collection[str]:
        """Every reason of a refusal."""
        return tuple(RefusalReason)

    def load(self) -> None:
        """Load what `clean` and `write` need, in the process from which those of files are forked."""
        from node.extensions.deidentify.instance import load_tables  # here, because it loads NumPy

        import_module("node.extensions.deidentify.files")
        import_module("node.extensions.deidentify.remaining").load()
        load_tables(self)

    def read(self, path: Path) -> Dataset:
        """Read a whole file; raises `NotDeidentified`."""
        try:
            size = path.stat().st_size
            if size > MAX_COMPRESSED_BYTES and text(read_file_meta_info(path), "TransferSyntaxUID") not in NATIVE:
                detail = f"the file has {size} bytes with compressed frames; the limit is {MAX_COMPRESSED_BYTES}"
                raise NotDeidentified(RefusalReason.TOO_LARGE, f"{detail}; `voxelnode deidentify` has none")
            return read_instance(path)
        except NotDeidentified:
            raise
        except Exception as error:  # pydicom raises anything for a damaged file
            raise NotDeidentified(
                RefusalReason.UNREADABLE, f"the file cannot be read: {type(error).__name__}"
            ) from error

    def clean(self, ds: Dataset) -> Dataset:
        """Return a data set without identities; raises `NotDeidentified`."""
        from node.extensions.deidentify.instance import deidentified  # here, because it loads NumPy

        return deidentified(ds, replace(self, search_seconds=SEARCH_SECONDS))

    def write(self, ds: Dataset, into: Path) -> int:
        """Write a DICOM file; return where its data set begins."""
        from node.extensions.deidentify.files import write_pieces  # here, because it loads NumPy

        with into.open("wb") as file:
            return write_pieces(ds, file)


def configured(settings: Settings, name: str) -> DeidentifyWay:
    """Return the de-identification that a table [deidentify.NAME] describes.

    Raises UsageError, which names the table, if there is no such table, or if its key or its rules cannot be used.
    """
    sections = settings.tables(DeidentifySettings)
    if name not in sections:
        known = nearest(name, sections) if sections else "; there are none"
        raise UsageError(f"no table [deidentify.{name}] in the configuration{known}")
    table = sections[name]
    try:
        return DeidentifyWay(
            Profile(options(table.retain, table.clean)),
            read_keys(table.key)[0],
            allowed(table.allow),
            read_rules(table.pixel_rules) if table.pixel_rules else (),
            BurnedInText(table.burned_in_text),
        )
    except UsageError as error:
        raise UsageError(f"[deidentify.{name}] {error}") from error


def names_of(settings: Settings) -> list[str]:
    """Return the names of all tables [deidentify.NAME]."""
    return list(settings.tables(DeidentifySettings))
