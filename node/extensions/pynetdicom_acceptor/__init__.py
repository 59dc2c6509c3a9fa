"""pynetdicom's acceptor in place of the node's own: ``[dicom] acceptor = "pynetdicom"`` (docs/pynetdicom.md)."""

from node.hookspecs import Extension, Key


class _PynetdicomAcceptor(Extension):
    name = "pynetdicom_acceptor"
    acceptors = (Key("pynetdicom", "node.extensions.pynetdicom_acceptor.acceptor:PynetdicomAcceptor"),)


EXTENSION = _PynetdicomAcceptor()
