"""The association side: the only package that imports pynetdicom.

pynetdicom keeps some of its settings in a module.  They are set here, once and for the life of the process, before
any association exists, and nothing changes them again.
"""

import logging

from pynetdicom import _config

# Its handlers print identifiers and data sets; this package logs what an operator needs, without patient data.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

# Private and unknown SOP classes belong to the storage service; which ones we take is said in `scp.contexts`.
_config.UNRESTRICTED_STORAGE_SERVICE = True
