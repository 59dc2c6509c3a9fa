"""Volume in, files out: the only package that imports nibabel and SimpleITK."""
