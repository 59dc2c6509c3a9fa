"""The section of the conformance statement."""

PROFILES = """\
The Basic Profile of PS3.15 Annex E with all options, by the command `voxelnode deidentify` on files, and on copies that
leave by routes and downloads for which the configuration names it. All other instances are stored and transmitted as
received.
"""
