"""A C-STORE SCP of pynetdicom's public API alone: one file and one sync for each instance, no index.

python benchmarks/pynetdicom_scp.py PORT FOLDER
"""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt


def main(port: int, folder: Path) -> None:
    numbers = count()

    def keep(event: evt.Event) -> int:
        with (folder / f"{next(numbers)}.dcm").open("wb") as file:
            file.write(event.encoded_dataset())
            file.flush()
            os.fdatasync(file.fileno())
        return 0x0000

    entity = AE("PYNETDICOM")
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    entity.maximum_associations = 64
    entity.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, keep)])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
