"""What every service of DICOMweb shares (PS3.18): media types, documents, parameters of searches, capabilities."""
