"""voxelnode: a DICOM node that turns what arrives into volumes."""

__version__ = "0.1.0"
