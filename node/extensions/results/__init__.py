"""Results: what a hook makes of a series, as DICOM instances that are received like any other."""

from node.hookspecs import Command, Extension, Router, Statement


class _Results(Extension):
    """What hooks give back becomes DICOM, and their jobs."""

    name = "results"
    commands = (
        Command(
            "hooks jobs",
            "Exchange",
            f"{__name__}.command:app",
            ("voxelnode hooks jobs --state failed", "voxelnode hooks jobs show 0123456789abcdef0123456789abcdef"),
        ),
    )
    routers = (Router("rest", f"{__name__}.rest:router"),)
    statement = Statement(
        {
            "Created Instances": f"{__name__}.statement:CREATED",
            "Attributes of Created Instances": f"{__name__}.statement:OBJECTS",
            "Created Structured Reports": f"{__name__}.statement:REPORTS",
            "Codes in Created Instances": f"{__name__}.statement:CODES",
        },
        f"{__name__}.statement:tables_of",
        words={
            "created_instances": "\n- It creates DICOM instances of the results of hooks (Annex A).",
            "created_reports": " Annex B has the reports that the node creates.",
        },
    )


EXTENSION = _Results()
