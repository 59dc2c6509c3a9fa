"""The DICOM Conformance Statement: ``template.md``, in the order of PS3.2 Annex N.

The text is in the template; `node.conformance.statement` generates the tables from the data that control the node.
"""
