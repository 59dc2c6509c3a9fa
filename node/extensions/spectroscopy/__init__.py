"""MR spectroscopy becomes NIfTI-MRS, and physiological recordings of Siemens become tables, as BIDS has them."""

from node.hookspecs import Extension, ObjectKind

MR_SPECTROSCOPY = "1.2.840.10008.5.1.4.1.1.4.2"
SIEMENS_NON_IMAGE = "1.3.12.2.1107.5.9.1"
"""Siemens' private CSA Non-Image Storage: spectra and recordings of software before XA."""
RAW_DATA = "1.2.840.10008.5.1.4.1.1.66"
PHILIPS_SPECTRUM = "1.3.46.670589.11.0.0.12.1"
"""Philips' private MR Spectrum Storage."""


class _Spectroscopy(Extension):
    """Instances of MR that are signals in time rather than images."""

    name = "spectroscopy"
    objects = (
        ObjectKind(
            frozenset((SIEMENS_NON_IMAGE, RAW_DATA, MR_SPECTROSCOPY)), f"{__name__}.recordings:Recordings"
        ),  # before the spectra, because XA also writes recordings as spectroscopy
        ObjectKind(
            frozenset((MR_SPECTROSCOPY, SIEMENS_NON_IMAGE, PHILIPS_SPECTRUM)), f"{__name__}.spectra:SpectraOfSeries"
        ),
    )


EXTENSION = _Spectroscopy()
