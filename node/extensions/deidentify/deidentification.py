"""How instances are de-identified: profile, key, allowed risks and pixel rules. It loads neither NumPy nor codecs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from pydicom import Dataset
from pydicom.filereader import read_file_meta_info

from node.dicom.values import text
from node.errors import UsageError, nearest
from node.extensions.deidentify.pixel_rules import PixelRule, read_rules
from node.extensions.deidentify.profile import Option, Profile, options
from node.extensions.deidentify.pseudonyms import PseudonymKey, read_keys
from node.extensions.deidentify.refusal import NotDeidentified, Reason, allowed
from node.extensions.deidentify.settings import DeidentifySettings
from node.files.reading import read_instance
from node.settings.model import Settings
from node.volume.read.transfer_syntaxes import NATIVE

MAX_COMPRESSED_BYTES = 750_000_000
"""Largest file with compressed frames that is de-identified: they are held in memory three times, and a child may use
4 GB. Native frames are copied from file to file."""

UID_FORM = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True)
class Deidentification:
    """How instances are de-identified.

    Attributes
    ----------
    allowed : frozenset of Reason
        Risks in pixels, of `refusal.ALLOWABLE`, that are passed with the pixels as they are.
    rules : tuple of PixelRule
        Used with `Option.PIXELS`.
    """

    profile: Profile
    key: PseudonymKey
    allowed: frozenset[Reason] = field(default_factory=frozenset)
    rules: tuple[PixelRule, ...] = ()

    @property
    def mark(self) -> str:
        """The value of De-identification Method (0012,0063) that names the key."""
        return f"key {self.key.name}"

    def uid(self, uid: str) -> str:
        """Return the UID of an instance, a series or a study in the place of another one."""
        if Option.UIDS in self.profile.options and UID_FORM.fullmatch(uid):
            return uid
        return self.key.uid(uid)

    # See `node.hookspecs.Way`

    @property
    def reasons(self) -> Collection[str]:
        """Every reason of a refusal."""
        return tuple(Reason)

    def load(self) -> None:
        """Load what `clean` and `write` need, in the process from which those of files are forked."""
        from node.extensions.deidentify.instance import load_tables  # here, because it loads NumPy

        import_module("node.extensions.deidentify.files")
        load_tables(self)

    def read(self, path: Path) -> Dataset:
        """Read a whole file.

        Raises
        ------
        NotDeidentified
        """
        try:
            size = path.stat().st_size
            if size > MAX_COMPRESSED_BYTES and text(read_file_meta_info(path), "TransferSyntaxUID") not in NATIVE:
                detail = f"the file has {size} bytes with compressed frames; the limit is {MAX_COMPRESSED_BYTES}"
                raise NotDeidentified(Reason.TOO_LARGE, f"{detail}; `voxelnode deidentify` has none")
            return read_instance(path)
        except NotDeidentified:
            raise
        except Exception as error:  # pydicom raises anything for a damaged file
            raise NotDeidentified(Reason.UNREADABLE, f"the file cannot be read: {type(error).__name__}") from error

    def clean(self, ds: Dataset) -> Dataset:
        """Return a data set without identities.

        Raises
        ------
        NotDeidentified
        """
        from node.extensions.deidentify.instance import deidentified  # here, because it loads NumPy

        return deidentified(ds, self)

    def write(self, ds: Dataset, into: Path) -> int:
        """Write a DICOM file; return where its data set begins."""
        from node.extensions.deidentify.files import write_pieces

        with into.open("wb") as file:
            return write_pieces(ds, file)


def configured(settings: DeidentifySettings) -> Deidentification:
    """Return the de-identification that a table [deidentify.NAME] of the configuration describes.

    Raises
    ------
    UsageError
        The key or the pixel rules cannot be used.
    """
    return Deidentification(
        Profile(options(settings.retain, settings.clean)),
        read_keys(settings.key)[0],
        allowed(settings.allow),
        read_rules(settings.pixel_rules) if settings.pixel_rules else (),
    )


def configured_by_name(sections: Mapping[str, DeidentifySettings], name: str) -> Deidentification:
    """Return the de-identification that the table with a name describes.

    Raises
    ------
    UsageError
        There is no such table, or its files cannot be used; the message names the table.
    """
    if name not in sections:
        known = nearest(name, sections) if sections else "; there are none"
        raise UsageError(f"no table [deidentify.{name}] in the configuration{known}")
    try:
        return configured(sections[name])
    except UsageError as error:
        raise UsageError(f"[deidentify.{name}] {error}") from error


class _Ways:
    """See `node.hookspecs.Ways`."""

    def names(self, settings: Settings) -> list[str]:
        return list(settings.tables(DeidentifySettings))

    def way(self, settings: Settings, name: str) -> Deidentification:
        return configured_by_name(settings.tables(DeidentifySettings), name)


WAYS = _Ways()
