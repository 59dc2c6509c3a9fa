"""The tables: patients, studies, series and images are the levels of PS3.4 C.6; the other tables record their history.

What senders and orders say is as long as they say it (at most `MAX_TEXT_BYTES` of `node.dicom.attributes`), in UTF-8,
whichever character set they used.
"""

from node.index.rows.models import history, levels, work

__all__ = ["history", "levels", "work"]  # whichever is imported, all tables are known
