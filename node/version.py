"""The version of voxelnode, which modules import from here: `node` itself imports what runs a whole node.

A release is `PUBLIC` alone. Every other build and every checkout adds its commit, so that two commits are never one
version. A build has both as text in this module (.ci/build_hook.py); a checkout reads its commit as below.
"""

from pathlib import Path

PUBLIC = "0.2.0.dev0"


def _commit(git: Path) -> str:
    """Return the commit that is checked out, without a process of git (gitrepository-layout); ValueError: unknown."""
    if not git.exists():
        return "$Format:%H$"  # `git archive` puts the commit here
    if git.is_file():  # a worktree, or a submodule
        git = git.parent / git.read_text().removeprefix("gitdir: ").strip()
    head = (git / "HEAD").read_text().strip().removeprefix("ref: ")
    if "/" not in head:
        return head
    if (git / "commondir").exists():
        git /= (git / "commondir").read_text().strip()
    if (git / head).exists():
        return (git / head).read_text()
    packed = (git / "packed-refs").read_text().split()
    return packed[packed.index(head) - 1]


__version__ = PUBLIC
if ".dev" in PUBLIC:
    try:
        __version__ += f"+g{int(_commit(Path(__file__).parents[1] / '.git')[:12], 16):012x}"
    except (OSError, ValueError):
        __version__ += "+unknown"
