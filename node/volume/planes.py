"""Names of planes and projections, which commands and requests take; here, because these load no NumPy."""

from __future__ import annotations

from typing import Literal

PlaneName = Literal["axial", "coronal", "sagittal"]
ProjectionName = Literal["mip", "minip"]
