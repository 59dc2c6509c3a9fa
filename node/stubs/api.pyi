from node.api import *  # noqa: F403
from node.api import __version__ as __version__
