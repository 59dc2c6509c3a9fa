"""De-identification by the profiles of PS3.15 Annex E: a data set in, a data set without identities out, or a refusal.

`instance.deidentified` is the whole of it for one instance; everything else serves it. The originals never change.
"""
