"""How instances are de-identified: profile, key, allowed risks and pixel rules. It loads neither NumPy nor codecs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from node.deidentify.pixel_rules import PixelRule, read_rules
from node.deidentify.profile import Option, Profile, options
from node.deidentify.pseudonyms import PseudonymKey, read_keys
from node.deidentify.refusal import Reason, allowed
from node.errors import UsageError, nearest
from node.settings.model import DeidentifySettings

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
