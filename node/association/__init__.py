"""DIMSE associations, as service provider and as service user: the only package that imports pynetdicom.

Of pynetdicom the node uses the encoding and decoding of the negotiation and of data sets, no thread and no socket.
"""

import logging

# pynetdicom's decoders log what they cannot decode; this package logs without patient data.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
