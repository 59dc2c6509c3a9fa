"""Results: what a hook makes of a series, as DICOM instances that are received like any other."""
