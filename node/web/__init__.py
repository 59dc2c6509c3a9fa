"""The node over HTTP: pages for people, REST for scripts, DICOMweb for viewers.

Nothing else knows the web framework.
"""
