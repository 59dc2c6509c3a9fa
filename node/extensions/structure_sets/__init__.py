"""RT structure sets become masks on the images that their regions were drawn on (PS3.3 C.8.8.5)."""

from node.api import Extension, ObjectKind


class _StructureSets(Extension):
    """RT structure sets."""

    name = "structure_sets"
    objects = (ObjectKind(frozenset(("1.2.840.10008.5.1.4.1.1.481.3",)), f"{__name__}.masks:StructureSetsOfSeries"),)


EXTENSION = _StructureSets()
