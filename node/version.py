"""The version of voxelnode, which modules import from here: `node` itself imports what runs a whole node."""

__version__ = "0.1.0"
