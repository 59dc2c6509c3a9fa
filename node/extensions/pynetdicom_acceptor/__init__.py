"""pynetdicom's acceptor in place of the node's own (docs/pynetdicom.md).

That of another program by `node.handlers`, or that of the node itself by ``[dicom] acceptor = "pynetdicom"``.
"""

from node.hookspecs import Extension, Key


class _PynetdicomAcceptor(Extension):
    name = "pynetdicom_acceptor"
    handlers = "node.extensions.pynetdicom_acceptor.handlers:handlers_of"
    acceptors = (Key("pynetdicom", "node.extensions.pynetdicom_acceptor.acceptor:PynetdicomAcceptor"),)


EXTENSION = _PynetdicomAcceptor()
