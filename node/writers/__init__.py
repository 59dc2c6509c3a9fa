"""Volumes in, files out. Only this package imports nibabel and SimpleITK."""
