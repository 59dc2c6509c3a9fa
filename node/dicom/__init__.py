"""The DICOM standard in code: pure functions on bytes, data sets, keys and statuses."""
