"""BIDS data sets of the volumes of a node (https://bids-specification.readthedocs.io, 1.11).

`rules` says what a volume is, `plan` gives every volume its name and its sidecar, `dataset` makes a folder agree with
the plan, and `export` does all of it for the index of a root.
"""
