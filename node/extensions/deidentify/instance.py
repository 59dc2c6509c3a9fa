"""De-identify one instance: the function that commands, routes and downloads call."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    BasicVoiceAudioWaveformStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    GeneralAudioWaveformStorage,
    ImplicitVRLittleEndian,
    MPEGTransferSyntaxes,
)

from node.children.pseudonyms import NO_KEY
from node.dicom.reading import with_elements
from node.dicom.values import CONVERSION_ERRORS, held_elements, items, number, text, texts
from node.extensions.deidentify.attributes import Cleaner
from node.extensions.deidentify.burned_in_text import is_examined, load, without_text
from node.extensions.deidentify.deidentification import BurnedInText, Deidentification, NotDeidentified, RefusalReason
from node.extensions.deidentify.elements import identities_of, patient_of
from node.extensions.deidentify.pixels import blank, drop_hidden, has_pixels, regions, risks_of, uses_spare_bits
from node.extensions.deidentify.profile import BASIC_PROFILE, CODES, Option, edition, safe_private
from node.extensions.deidentify.text import vocabulary
from node.version import __version__
from node.volume.read.transcoding import encoded


def load_tables(how: Deidentification) -> None:
    """Load what `deidentified` reads once for each profile."""
    vocabulary()
    safe_private()
    identities_of(Dataset(), how.profile)
    how.profile.action(0)
    if how.burned_in_text is not BurnedInText.OFF:
        load()


def deidentified(ds: Dataset, how: Deidentification) -> Dataset:
    """Return an instance without identities.

    `ds`: with its `file_meta`; not to be used afterwards.

    With a `file_meta` that names its transfer syntax. It is another one, Explicit VR Little Endian, only if pixels were
    blanked, if `ds` was big endian or deflated, or if nothing encodes its lossless one. Large native pixels stay in the
    file of `ds`.

    Raises NotDeidentified if the instance cannot be called clean; nothing of it may be passed on.

    PS3.15 E.1.1 and E.3. Written are (0012,0062), (0012,0063), (0012,0064) and (0028,0303), and (0028,0301) of blanked
    pixels.
    """
    try:
        return _deidentified(_in_little_endian(ds), how)
    except CONVERSION_ERRORS as error:
        raise NotDeidentified(RefusalReason.UNREADABLE, f"the data set is damaged: {type(error).__name__}") from error


def _deidentified(ds: Dataset, how: Deidentification) -> Dataset:
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not text(ds, keyword):  # what is no UID gets one in its place, as every UID does
            raise NotDeidentified(RefusalReason.NO_IDENTITY, f"{keyword} is missing: correct the instance")
    chosen = how.profile.options
    if how.key.name != NO_KEY and how.mark in texts(ds, "DeidentificationMethod"):
        detail = f"it was made by {how.mark}, and would get pseudonyms of pseudonyms; pass it on as it is"
        raise NotDeidentified(RefusalReason.DEIDENTIFIED, detail)
    if (sound := sound_of(ds)) and RefusalReason.VOICE not in how.allowed:
        raise NotDeidentified(RefusalReason.VOICE, f"{sound}; allow voice if somebody has listened to it")
    if "EncapsulatedDocument" in ds:
        raise NotDeidentified(RefusalReason.ENCAPSULATED_DOCUMENT, "a PDF or another document inside cannot be cleaned")
    if "ContentSequence" in ds and Option.STRUCTURED not in chosen:
        raise NotDeidentified(RefusalReason.STRUCTURED_REPORT, "a report; clean structured keeps it without its texts")
    mask = _pixels_to_blank(ds, how)
    patient = patient_of(ds)
    cleaner = Cleaner(how.profile, how.key, patient, identities_of(ds, how.profile))
    if not cleaner.is_of_class(text(ds, "SOPClassUID")):
        raise NotDeidentified(
            RefusalReason.NO_IDENTITY, "SOPClassUID is neither in PS3.6 nor a private one without numbers"
        )
    cleaned = cleaner.data_set(ds)
    new = with_elements(ds, dict(held_elements(cleaned)))
    new.file_meta = _file_meta(new, text(ds.file_meta, "TransferSyntaxUID"))
    drop_hidden(new)
    if (mask is not None and mask.any()) or uses_spare_bits(new):
        blank(new, mask)
    new.PatientID = new.PatientName = how.key.patient(patient)
    _mark(new, how, pixels=mask is not None)
    return new


def _pixels_to_blank(ds: Dataset, how: Deidentification) -> NDArray[np.bool_] | None:
    """Return which pixels of each frame are blanked; None if nothing is known of them.

    Raises NotDeidentified if the pixels may show who it is.
    """
    if not has_pixels(ds):
        return None
    mask = regions(ds, how.rules) if Option.PIXELS in how.profile.options else None
    _refuse_risk(ds, how, mask is not None)
    if how.burned_in_text is not BurnedInText.OFF and is_examined(ds):
        mask = without_text(ds, mask, how)
    return mask


def _refuse_risk(ds: Dataset, how: Deidentification, known_device: bool) -> None:
    for reason, detail in risks_of(ds):
        if reason in how.allowed or (known_device and reason is not RefusalReason.RECOGNIZABLE):
            continue
        if reason is RefusalReason.RECOGNIZABLE:
            remedy = "allow recognizable if the pixels have been looked at"
        elif Option.PIXELS in how.profile.options:
            remedy = f"no rule fits this device, and it has no ultrasound regions; add a rule, or allow {reason}"
        else:
            remedy = f"clean pixels by rules for the device, or allow {reason} if the pixels have been looked at"
        raise NotDeidentified(reason, f"{detail}; {remedy}")


def _in_little_endian(ds: Dataset) -> Dataset:
    """Return a data set in one of the encodings whose elements are copied as they are."""
    syntax = UID(text(ds.file_meta, "TransferSyntaxUID"))
    if not syntax:
        raise NotDeidentified(RefusalReason.UNREADABLE, "the transfer syntax is not known")
    if syntax == ExplicitVRBigEndian:
        meta = ds.file_meta
        ds = read_dataset(BytesIO(encoded(ds, ExplicitVRLittleEndian)), False, True)
        ds.file_meta = meta
    elif any(
        isinstance(element, RawDataElement) and element.is_implicit_VR is (syntax != ImplicitVRLittleEndian)
        for element in held_elements(ds).values()  # others pydicom has converted
    ):
        for _ in ds.iterall():
            pass  # converted now: pydicom writes it in the encoding that the file names, and not in that of its bytes
        correct_ambiguous_vr(ds, True)
        ds.set_original_encoding(syntax == ImplicitVRLittleEndian, True, ds.original_character_set)
    if syntax in (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _file_meta(ds: Dataset, transfer_syntax_uid: str) -> FileMetaDataset:
    """Return File Meta Information without the sender, private information and the UIDs of the original."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(text(ds, "SOPClassUID"))
    meta.MediaStorageSOPInstanceUID = UID(text(ds, "SOPInstanceUID"))
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    return meta


def _mark(ds: Dataset, how: Deidentification, *, pixels: bool) -> None:
    """Write what was done (PS3.3 C.7.1.1, C.12.1)."""
    chosen = how.profile.options
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = [f"voxelnode {__version__}", f"PS3.15 {edition()}", how.mark]
    codes = [BASIC_PROFILE]
    codes += [code for option, code in CODES.items() if option in chosen and (option is not Option.PIXELS or pixels)]
    ds.DeidentificationMethodCodeSequence = Sequence(code_item(*code) for code in codes)
    if Option.FULL_DATES in chosen:
        ds.LongitudinalTemporalInformationModified = "UNMODIFIED"
    else:
        ds.LongitudinalTemporalInformationModified = "MODIFIED" if Option.MODIFIED_DATES in chosen else "REMOVED"
    if pixels:
        ds.BurnedInAnnotation = "NO"


def code_item(code: str, meaning: str) -> Dataset:
    """Return a code of the scheme DCM as an item (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", meaning
    return item


_AUDIO = frozenset((BasicVoiceAudioWaveformStorage, GeneralAudioWaveformStorage))
_COMPANDED = frozenset(("AB", "MB"))
"""Waveform Sample Interpretations of A-law and mu-law, by which only telephones and sound are encoded."""

_SPOKEN = frozenset(("109110", "109111", "109112"))
"""Channel sources of CID 3000: voice, the operator's narrative, the ambient room environment."""

_SOUND = frozenset((*_SPOKEN, "109113", "109114", "109115"))
_MEASURED = frozenset(("MDC", "SCPECG", "SCT", "SRT", "SNM3"))
"""Schemes whose codes of channel sources are leads, electrodes and transducers; sound has codes of DICOM."""

_HERTZ_OF_SPEECH = 4000.0
"""From this sampling frequency on, speech is intelligible."""


def sound_of(ds: Dataset) -> str:
    """Return why somebody may be heard in an instance; empty if nobody is."""
    if text(ds, "SOPClassUID") in _AUDIO or text(ds, "Modality") == "AU":
        return "the instance is a sound recording, and a voice is an identity"
    if text(ds.file_meta, "TransferSyntaxUID") in MPEGTransferSyntaxes:
        return "the video may have a sound track"
    if any(_is_sound(group) for group in items(ds, "WaveformSequence")):
        return "a waveform has the encoding or the source of sound"
    return ""


def _is_sound(group: Dataset) -> bool:
    if text(group, "WaveformSampleInterpretation") in _COMPANDED:
        return True
    channels = [list(items(channel, "ChannelSourceSequence")) for channel in items(group, "ChannelDefinitionSequence")]
    if any(text(source, "CodeValue") in _SOUND for sources in channels for source in sources):
        return True
    if (number(group, "SamplingFrequency") or 0) < _HERTZ_OF_SPEECH:
        return False
    is_described = len(channels) >= max(1, number(group, "NumberOfWaveformChannels") or 0)
    return not is_described or not all(
        any(text(one, "CodingSchemeDesignator") in _MEASURED for one in sources) for sources in channels
    )
