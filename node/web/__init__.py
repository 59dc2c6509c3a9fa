"""The node over HTTP: pages for people, REST for scripts, DICOMweb for viewers.

Only this package imports the web framework.
"""
