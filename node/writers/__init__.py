"""Writers: from volumes to files. Only this package imports nibabel and SimpleITK."""
