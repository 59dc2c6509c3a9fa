"""The table of fields in docs/bids.md: ``python -m node.extensions.bids.field_table docs/bids.md`` writes it."""

import sys
from pathlib import Path

from node.extensions.bids.volume_fields import VOLUME_FIELDS
from node.selector.field_table import with_table

if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8"), VOLUME_FIELDS), encoding="utf-8")
