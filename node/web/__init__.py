"""The node over HTTP: access, REST for scripts, and what extensions serve, such as DICOMweb and pages.

The core imports the web framework only here.
"""
