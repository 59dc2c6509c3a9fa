"""The DICOM Conformance Statement: template.md, in the order of PS3.2 Annex N.

The text is in the template; `statement` generates the tables from the data that control the node.
"""

from node.hookspecs import Command, Extension


class _Conformance(Extension):
    """What the node does, for those who connect theirs with it."""

    name = "conformance"
    commands = (
        Command(
            "conformance",
            "Exchange",
            f"{__name__}.command:conformance",
            ("voxelnode conformance -o conformance.md", "voxelnode conformance --json"),
        ),
    )


EXTENSION = _Conformance()
