from node import *  # noqa: F403
from node import __version__ as __version__
from node import api as api
