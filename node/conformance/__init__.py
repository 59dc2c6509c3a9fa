"""The DICOM Conformance Statement: ``template.md``, in the order of PS3.2 Annex N, with tables that the node runs by.

Prose stands in the template; whatever can be listed comes from `node.conformance.tables`.
"""
