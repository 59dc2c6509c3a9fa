"""DICOM files on disk: opening them, and reading a part of them. What their bytes mean is in `node.dicom`."""
