"""DICOMweb, PS3.18: search (QIDO-RS), retrieve (WADO-RS) and store (STOW-RS) below ``/dicom-web``."""
