"""The DICOM Conformance Statement: ``template.md``, in the order of PS3.2 Annex N.

The text is in the template; `node.conformance.tables` makes the tables from those that control the node.
"""
