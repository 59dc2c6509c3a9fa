"""DIMSE associations, as service provider and as service user: the only package that imports pynetdicom.

pynetdicom keeps some settings in a module. They are set here, before any association exists, and never change.
"""

import logging

from pynetdicom import _config

# pynetdicom's log handlers print identifiers and data sets; this package logs without patient data.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

# Private and unknown SOP classes belong to the storage service; `association.contexts` decides which are accepted.
_config.UNRESTRICTED_STORAGE_SERVICE = True
