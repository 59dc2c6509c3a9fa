"""Pseudonyms by a key: the same identity gets the same pseudonym on every host, in any order, and years later.

Nothing is stored. Who has the key and the originals can compute the map from one to the other, and nobody else can:
every pseudonym is an HMAC-SHA256 by the key (RFC 2104).
"""

import base64
import errno
import hmac
import os
import re
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from node.errors import UsageError
from node.files.durable import NO_LINKS, sync_folder

NO_KEY = "none"
"""Name of a key that nobody keeps."""

MADE_UID = "2.25."
"""How UIDs begin that are made of numbers (PS3.5 B.2)."""

SECRET_BYTES = 32
MAX_SHIFT_DAYS = 3650
PATIENT_CHARACTERS, ACCESSION_CHARACTERS, AE_CHARACTERS = 12, 16, 16
"""Base32 has 5 bits a character: 60 bits for a patient keep a collision among a million improbable."""

_LINE = re.compile(r"([A-Za-z0-9._-]{1,32}) ([0-9a-f]{64})")
_MAX_KEY_FILE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Patient:
    """Patient ID (0010,0020) and Issuer of Patient ID (0010,0021), or what stands in for them."""

    issuer: str
    patient_id: str


@dataclass(frozen=True, slots=True)
class PseudonymKey:
    """A key, and what it makes of identities. `name` may be shown; `secret` may not."""

    name: str
    secret: bytes

    def __repr__(self) -> str:
        return f"PseudonymKey({self.name!r})"

    def uid(self, uid: str) -> str:
        """Return the UID in the place of another one."""
        if not uid:
            return uid
        return f"{MADE_UID}{int.from_bytes(self.digest('uid', uid)[:16], 'big')}"

    def patient(self, patient: Patient) -> str:
        """Return the Patient ID in the place of another one."""
        return self.text("patient", PATIENT_CHARACTERS, patient.issuer, patient.patient_id)

    def accession(self, number: str) -> str:
        """Return the Accession Number in the place of another one."""
        return self.text("accession", ACCESSION_CHARACTERS, number)

    def ae_title(self, title: str) -> str:
        """Return the AE title in the place of another one."""
        return self.text("ae", AE_CHARACTERS, title)

    def days_earlier(self, patient: Patient) -> int:
        """Return by how many days all dates of a patient become earlier: 1 to `MAX_SHIFT_DAYS`."""
        digest = self.digest("days", patient.issuer, patient.patient_id)
        return 1 + int.from_bytes(digest[:8], "big") % MAX_SHIFT_DAYS

    def text(self, kind: str, characters: int, *parts: str) -> str:
        """Return capital letters and digits that stand for an identity of some kind."""
        return base64.b32encode(self.digest(kind, *parts)).decode("ascii")[:characters]

    def digest(self, kind: str, *parts: str) -> bytes:
        """Return 32 bytes that stand for an identity of some kind."""
        message = "\0".join((kind, *parts)).encode("utf-8", "surrogatepass")
        return hmac.digest(self.secret, message, "sha256")


def passing_key() -> PseudonymKey:
    """Return a key that nobody has and that is gone with this process: its pseudonyms cannot be reproduced."""
    return PseudonymKey(NO_KEY, secrets.token_bytes(SECRET_BYTES))


def read_keys(path: Path) -> list[PseudonymKey]:
    """Return the keys of a file: the first one is used, the others were.

    Raises UsageError: the file is missing, others than its owner have rights on it, or a line of it is not a key.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        remedy = f"; make one by `voxelnode pseudonyms new {path}`" if isinstance(error, FileNotFoundError) else ""
        raise UsageError(f"{path}: {error.strerror}{remedy}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UsageError(f"{path}: a key must be in a file")
    with open(descriptor, "rb") as file:
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(f"{path}: others may read or change the key; `chmod 600 {path}`")
        if status.st_uid not in (os.geteuid(), 0):
            raise UsageError(f"{path}: the key belongs to another user; `chown` it to the user of this process")
        content = file.read(_MAX_KEY_FILE_BYTES).decode("ascii", "replace")
    keys = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise UsageError(f"{path}, line {number}: a key is a name and {2 * SECRET_BYTES} hexadecimal digits")
            keys.append(PseudonymKey(match[1], bytes.fromhex(match[2])))
    if not keys:
        raise UsageError(f"{path}: no key; make a new file by `voxelnode pseudonyms new`")
    if len({key.name for key in keys}) < len(keys):
        raise UsageError(f"{path}: two keys have one name; rename one")
    return keys


def made_key(path: Path) -> PseudonymKey:
    """Return the key that is used of a file, which is made if it is missing.

    Raises UsageError: see `read_keys`.
    """
    if not path.exists():
        with suppress(FileExistsError):  # another run was first
            return _new_file(path, None)
    return read_keys(path)[0]


def new_key_file(path: Path, name: str | None = None) -> PseudonymKey:
    """Write a file with a new key, for its owner alone; return the key.

    Raises UsageError if the file exists: its key would be lost, and with it all that relies on it.
    """
    try:
        return _new_file(path, name)
    except FileExistsError:
        raise UsageError(f"{path} exists; `voxelnode pseudonyms rotate` adds a key to it") from None


def _new_file(path: Path, name: str | None) -> PseudonymKey:
    key = _new_key(name, ())
    part = _written(path, [key])
    try:
        os.link(part, path)  # never replaces the key of another run, and is there as a whole or not at all
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise UsageError(
            f"{path}: {errno.errorcode[error.errno]}: its file system has no hard links, without which a key may be "
            "replaced or torn: make the key on another one, and move it here"
        ) from None
    finally:
        part.unlink()
    sync_folder(path.absolute().parent)
    return key


def rotate(path: Path, name: str | None = None) -> PseudonymKey:
    """Put a new key before those of a file; return it. Pseudonyms by the earlier keys are not made any more.

    Raises UsageError as `read_keys` does, and if a key of that name is there already.
    """
    keys = read_keys(path)
    key = _new_key(name, [each.name for each in keys])
    os.replace(_written(path, [key, *keys]), path)
    sync_folder(path.absolute().parent)
    return key


def _new_key(name: str | None, taken: list[str] | tuple[()]) -> PseudonymKey:
    name = name or f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    key = PseudonymKey(name, secrets.token_bytes(SECRET_BYTES))
    if not _LINE.fullmatch(f"{name} {key.secret.hex()}"):
        raise UsageError(f"{name!r}: the name of a key has 1 to 32 letters, digits, dots, dashes and underscores")
    if name in taken:
        raise UsageError(f"{name}: a key of this name is there already; choose another name")
    return key


def _written(path: Path, keys: list[PseudonymKey]) -> Path:
    """Write a file beside another one, and return it."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    content = "# Keys of pseudonyms: the first is used. Keep a copy: what is lost cannot be computed again.\n"
    content += "".join(f"{key.name} {key.secret.hex()}\n" for key in keys)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    return part
