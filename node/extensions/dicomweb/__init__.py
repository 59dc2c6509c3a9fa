"""The Studies Service and the URI Service of DICOMweb: QIDO-RS, WADO-RS, STOW-RS and WADO-URI (PS3.18 9 and 10)."""

from node.hookspecs import Extension, Router, Statement


class _DicomWeb(Extension):
    """The stored instances over HTTP: found, retrieved, rendered and stored."""

    name = "dicomweb"
    routers = (
        Router("dicomweb", f"{__name__}.transactions:router"),
        Router(
            "dicomweb", f"{__name__}.transactions:studies", "Studies Service", f"{__name__}.transactions:TRANSACTIONS"
        ),
        Router(
            "dicomweb",
            f"{__name__}.transactions:uri",
            "URI Service (WADO-URI)",
            f"{__name__}.transactions:TRANSACTIONS",
        ),
    )
    statement = Statement(
        {
            "URI Web Service": f"{__name__}.transactions:URI_SERVICE",
            "Studies Web Service": f"{__name__}.transactions:STUDIES_SERVICE",
            "Media Types of Web Services": f"{__name__}.transactions:MEDIA_TYPES",
            "Query Parameters and Header Fields of Web Services": f"{__name__}.transactions:REQUESTS",
            "Attributes of Searches": f"{__name__}.transactions:ATTRIBUTES",
            "Network and Media Communication Details/DICOM Web Services": f"{__name__}.transactions:STATUSES",
        },
        f"{__name__}.transactions:tables_of",
    )


EXTENSION = _DicomWeb()
