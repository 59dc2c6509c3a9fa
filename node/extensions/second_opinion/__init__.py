"""What another converter makes of the same series, and where the two differ: `voxelnode convert --compare dcm2niix`.

`dcm2niix` runs the program, `differences` compares volumes where they lie in the patient, and `evidence` says which
values of the headers decide a difference. Nothing of a conversion depends on it.
"""

from __future__ import annotations

from node.hookspecs import Comparison, Extension


class _SecondOpinion(Extension):
    """dcm2niix beside the node's own conversion."""

    name = "second_opinion"
    comparisons = (Comparison("dcm2niix", f"{__name__}.dcm2niix:comparer"),)


EXTENSION = _SecondOpinion()
