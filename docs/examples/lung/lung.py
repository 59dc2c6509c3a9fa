"""The lungs in a CT by threshold: a stand-in for a model, which shows how results come back (docs/results.md).

As a command hook: lung.py VOLUME OUT writes the mask and its manifest into the folder OUT.
"""

import json
import sys
from pathlib import Path

import SimpleITK as sitk

LABELS = {
    "1": {
        "name": "Left lung",
        "category": {"value": "123037004", "scheme": "SCT", "meaning": "Anatomical Structure"},
        "type": {"value": "44029006", "scheme": "SCT", "meaning": "Left lung"},
    },
    "2": {
        "name": "Right lung",
        "category": {"value": "123037004", "scheme": "SCT", "meaning": "Anatomical Structure"},
        "type": {"value": "3341006", "scheme": "SCT", "meaning": "Right lung"},
    },
}

FAMILY = {"value": "123104", "scheme": "DCM", "meaning": "Morphological Operations"}

AIR_HU, LUNG_HU = -1100, -400


def write_results(volume: str, out: str) -> dict:
    """Segment a volume in HU; write ``lungs.nii.gz`` and ``volumes.json`` into `out`, and return the manifest."""
    image = sitk.ReadImage(volume)
    dark = sitk.BinaryThreshold(sitk.Cast(image, sitk.sitkFloat32), AIR_HU, LUNG_HU)
    inside = _enclosed(dark)
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(inside), sortByObjectSize=True)
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(parts)
    largest = list(statistics.GetLabels())[:2]
    # SimpleITK places voxels in LPS: the first coordinate grows to the left of the patient.
    from_left = sorted(largest, key=lambda label: -statistics.GetCentroid(label)[0])
    mask = sitk.ChangeLabel(parts, {label: 0 for label in statistics.GetLabels() if label not in largest})
    mask = sitk.ChangeLabel(mask, {label: number for number, label in enumerate(from_left, 1)})
    sitk.WriteImage(sitk.Cast(mask, sitk.sitkUInt8), str(Path(out, "lungs.nii.gz")))
    measured = [
        {"name": f"Volume of {LABELS[str(number)]['name'].lower()}", "value": round(volume_ml, 3), "unit": "mL"}
        for number, volume_ml in enumerate((statistics.GetPhysicalSize(label) / 1000 for label in from_left), 1)
    ]
    Path(out, "volumes.json").write_text(json.dumps({"measurements": measured}))
    return {
        "algorithm": {"name": "lung-threshold", "version": "1", "family": FAMILY},
        "results": [
            {"file": "lungs.nii.gz", "description": "Lungs", "labels": LABELS},
            {"file": "volumes.json", "description": "Lung volumes"},
        ],
    }


def _enclosed(dark: sitk.Image) -> sitk.Image:
    """Return what is dark within each slice and does not reach its edge: no air around the patient."""
    filled = sitk.JoinSeries([sitk.BinaryFillhole(sitk.Not(dark[:, :, k])) for k in range(dark.GetDepth())])
    filled.CopyInformation(dark)
    return sitk.And(filled, dark)


if __name__ == "__main__":
    manifest = write_results(sys.argv[1], sys.argv[2])
    Path(sys.argv[2], "results.json").write_text(json.dumps(manifest))
