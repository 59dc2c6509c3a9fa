"""voxelnode: a DICOM node that converts received series to volumes."""

__version__ = "0.1.0"
