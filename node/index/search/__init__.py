"""Searches: queries of DICOM, selections of instances, and facts of series for selectors."""
