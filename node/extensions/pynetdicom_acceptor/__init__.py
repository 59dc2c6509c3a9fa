"""pynetdicom's acceptor in place of the node's own (docs/pynetdicom.md).

That of another program by `node.handlers`, or that of the node itself by ``[dicom] acceptor = "pynetdicom"``.
"""

from node.hookspecs import Extension


class _PynetdicomAcceptor(Extension):
    name = "pynetdicom_acceptor"


EXTENSION = _PynetdicomAcceptor()
