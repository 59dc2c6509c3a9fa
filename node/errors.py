"""The one root of all errors that voxelnode raises on purpose; a docstring is the default message."""


class VoxelnodeError(Exception):
    """Something went wrong that voxelnode expected might."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").splitlines()[0])


class UsageError(VoxelnodeError):
    """The command or the configuration is wrong; the message names the value, the rule and the remedy."""


class ArrivalRefused(VoxelnodeError):
    """An instance was not taken; the subclass says which DIMSE status tells the peer so."""


class OutOfResources(ArrivalRefused):
    """No room, no index or a failing disk: the peer may try again (status 0xA700, PS3.4 B.2.3)."""


class ClassMismatch(ArrivalRefused):
    """Request, presentation context and data set name different objects (status 0xA900, PS3.4 B.2.3)."""


class NotUnderstood(ArrivalRefused):
    """The data set cannot be read: sending it again will not help (status 0xC000, PS3.4 B.2.3)."""


class ConversionRefused(VoxelnodeError):
    """A series, or a part of it, gives no volume; `reason` is a fixed word, `detail` a sentence for a person.

    `detail` never holds patient data: tags, counts, UIDs and measures only.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
