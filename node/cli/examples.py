"""Examples of command lines, as the help of each command shows them."""

from __future__ import annotations

EXAMPLES = {
    "": (
        "voxelnode demo",
        "voxelnode convert scans -o volumes",
        "voxelnode init && voxelnode serve",
    ),
    "demo": ("voxelnode demo",),
    "init": ("voxelnode init", "voxelnode init site"),
    "serve": ("voxelnode serve", "voxelnode serve --config site/voxelnode.toml"),
    "doctor": ("voxelnode doctor", "voxelnode doctor --json"),
    "config": ("voxelnode config show", "voxelnode config check", "voxelnode config example > voxelnode.toml"),
    "convert": (
        "voxelnode convert scans -o volumes",
        "voxelnode convert scans -o volumes --list",
        "voxelnode convert scan.zip -o volumes --flat -f '%p_%s' --format nifti,nrrd",
        "voxelnode convert scans -o volumes --name '{patient_id}_{series_number:03}'",
    ),
    "deidentify": (
        "voxelnode deidentify scans clean",
        "voxelnode deidentify scans clean --key trial.key --retain modified-dates,patient --clean descriptors",
        "voxelnode deidentify scans clean --pixel-rules devices.toml",
    ),
    "import": ("voxelnode import scans", "voxelnode import scan.zip --dry-run"),
    "bids": (
        "voxelnode bids dataset --dry-run",
        "voxelnode bids dataset --rules rules.toml --where 'modality == \"MR\"'",
    ),
    "reconvert": (
        "voxelnode reconvert --failed",
        'voxelnode reconvert --where \'modality == "MR" and verdict == "incomplete"\' --dry-run',
    ),
    "echo": ("voxelnode echo", "voxelnode echo PACS@pacs.example:104"),
    "find": ("voxelnode find --from PACS PatientID=17", "voxelnode find --from PACS StudyDate=20260101-"),
    "get": ("voxelnode get 1.2.840.1 --from PACS",),
    "send": ("voxelnode send 1.2.840.1 --to PACS", "voxelnode send --patient 17 --to NODE@127.0.0.1:11112"),
    "workitems": ("voxelnode workitems list --state 'IN PROGRESS'", "voxelnode workitems end 2.25.17 --yes"),
    "worklist": ("voxelnode worklist list", "voxelnode worklist check"),
    "hooks": ("voxelnode hooks list", "voxelnode hooks test mail", "voxelnode hooks deliveries --state given-up"),
    "routes": ("voxelnode routes list", "voxelnode routes waiting", "voxelnode routes pause research/PACS"),
    "jobs": ("voxelnode jobs", "voxelnode jobs --state failed", "voxelnode jobs show 0123456789abcdef0123456789abcdef"),
    "conformance": ("voxelnode conformance -o conformance.md", "voxelnode conformance --json"),
    "status": ("voxelnode status", "voxelnode status --json"),
    "series": ("voxelnode series", "voxelnode series --incomplete", "voxelnode series --state failed"),
    "select": ("voxelnode select 'modality == \"CT\" and slices >= 50'", "voxelnode select 'modality == \"CT\"' --why"),
    "info": ("voxelnode info doe", "voxelnode info 1.2.840.1"),
    "dump": ("voxelnode dump scans/1.dcm", "voxelnode dump 1.2.840.1.1 --json"),
    "rejections": ("voxelnode rejections",),
    "conflicts": ("voxelnode conflicts",),
    "audit": ("voxelnode audit", "voxelnode audit --verify"),
    "fsck": ("voxelnode fsck", "voxelnode fsck --hash"),
    "db": ("voxelnode db path", "voxelnode db backup index-copy.sqlite", "voxelnode db export shared --group users"),
    "archive": ("voxelnode archive status", "voxelnode archive copy --to store"),
    "journal": ("voxelnode journal status",),
    "quarantine": ("voxelnode quarantine list",),
    "delete": ("voxelnode delete 1.2.840.1 --dry-run",),
    "retention": ("voxelnode retention",),
    "patient": ("voxelnode patient list",),
    "pseudonyms": ("voxelnode pseudonyms new trial.key", "voxelnode pseudonyms map trial.key scans"),
    "account": ("voxelnode account add doe", "voxelnode account list"),
    "cluster": ("voxelnode cluster hosts", "voxelnode cluster forget HOST"),
    "viewers": ("voxelnode viewers list", "voxelnode viewers install ohif"),
}
"""By command, the empty name for the whole program."""


def epilog(command: str) -> str:
    """Return the examples of a command for the end of its help; ``\\b`` keeps the help from joining the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[command])
