"""DIMSE associations, as service provider and as service user.

Only this package and the extensions that serve DIMSE import pynetdicom. Of it the node uses the encoding and decoding
of the negotiation and of data sets, no thread and no socket.
"""

import logging

# pynetdicom's decoders log what they cannot decode; this package logs without patient data.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
