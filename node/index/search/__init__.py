"""Searches: queries of DICOM, and selections of instances."""
