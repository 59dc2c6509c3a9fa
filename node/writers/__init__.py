"""Writers: from volumes to files. Only this package imports nibabel and SimpleITK.

nibabel writes the headers of Analyze, and reads masks; SimpleITK segments the body; both read volumes back. Headers of
NIfTI, MetaImage and NRRD are written here: the libraries take longer to load than a small series takes to convert.
"""
