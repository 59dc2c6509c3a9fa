"""Sound in which somebody may speak: which instances have it."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.uid import BasicVoiceAudioWaveformStorage, GeneralAudioWaveformStorage, MPEGTransferSyntaxes

from node.dicom.values import items, number, text

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
