"""``python -m node`` is ``voxelnode``."""

from node.cli import main

if __name__ == "__main__":
    main()
