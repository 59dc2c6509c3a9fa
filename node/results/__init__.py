"""Results: what a hook makes of a series, as DICOM instances that enter the node by its one door."""
