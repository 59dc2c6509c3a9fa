"""The node of which claims are checked, as a requestor and as a client sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import httpx2
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role
from pynetdicom.association import Association

from node.association.client.association import Address
from node.dicom.keys import SUPPORTED, UNIQUE_KEYS, Level, key_of
from node.dicom.uids import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from node.extensions.conformance.claims import Unchecked
from node.extensions.conformance.specimens import image, new_patient_id

if TYPE_CHECKING:
    from pynetdicom.presentation import PresentationContext

MAXIMUM_CONTEXTS = 128
"""Presentation contexts of an association: their IDs are odd and end at 255 (PS3.8 9.3.2.2)."""

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ACCEPTED, USER_REJECTION = 0, 1
"""Results of a presentation context (PS3.8 table 9-18)."""

DICOM_JSON = "application/dicom+json"


@dataclass
class Target:
    """The node, and what was learned of it. Nothing is stored unless `may_store`."""

    address: Address
    calling_ae_title: str
    web: str
    token: str = ""
    may_store: bool = False
    timeout: float = 30.0
    web_is_away: str = ""
    _away: str = ""
    _negotiated: dict[tuple[str, str], int] = field(default_factory=dict)

    def associate(self, contexts: Iterable[PresentationContext], roles: Iterable[Any] = ()) -> Association:
        """Open an association; Unchecked says why there is none.

        A node that did not answer is not asked again: each claim would wait as long.
        """
        if self._away:
            raise Unchecked(self._away)
        ae = AE(ae_title=self.calling_ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = self.timeout
        tls = None if self.address.tls is None else (self.address.tls, self.address.host)
        assoc = ae.associate(
            self.address.host,
            self.address.port,
            contexts=list(contexts),
            ae_title=self.address.ae_title,
            ext_neg=list(roles),
            tls_args=tls,
        )
        if assoc.is_established:
            return assoc
        if assoc.is_rejected:
            answer = assoc.acceptor.primitive
            reason = f"{self.address} rejects the association: {answer.reason_str if answer else 'no reason'}"
            if not self._negotiated:
                self._away = reason
            raise Unchecked(reason)
        if assoc.acceptor.primitive is not None:  # accepted, but none of the contexts
            raise Unchecked(f"{self.address} accepts none of the presentation contexts")
        self._away = f"{self.address} does not answer"
        raise Unchecked(self._away)

    @cached_property
    def acceptor(self) -> Any:
        """What the node says of itself when it accepts an association."""
        assoc = self.associate([build_context("1.2.840.10008.1.1")])
        assoc.release()
        return assoc.acceptor

    def negotiate(self, pairs: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
        """Return the result of each pair of abstract and transfer syntax, proposed in a context of its own."""
        _ = self.acceptor
        waiting = iter([pair for pair in dict.fromkeys(pairs) if pair not in self._negotiated])
        while several := list(islice(waiting, MAXIMUM_CONTEXTS)):
            self._negotiated |= self._results(several)
        return self._negotiated

    def _results(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
        echo = build_context("1.2.840.10008.1.1", ImplicitVRLittleEndian)  # so that the association is accepted
        if len(pairs) == MAXIMUM_CONTEXTS:
            return self._results(pairs[:1]) | self._results(pairs[1:])
        assoc = self.associate([*(build_context(abstract, [transfer]) for abstract, transfer in pairs), echo])
        results = {context.context_id: context.result for context in assoc.accepted_contexts}
        results |= {context.context_id: context.result for context in assoc.rejected_contexts}
        assoc.release()
        return {pair: results.get(2 * number + 1, USER_REJECTION) or 0 for number, pair in enumerate(pairs)}

    @cached_property
    def _queries(self) -> Association:
        return self.associate([build_context(model) for model in (STUDY_ROOT_FIND, PATIENT_ROOT_FIND)])

    def find(self, query: Dataset, *, first_only: bool = False) -> tuple[list[Dataset], list[int]]:
        """Return the answers to a query, and the statuses of all responses."""
        assoc = self._queries
        if not assoc.is_established:
            del self._queries
            assoc = self._queries
        model = PATIENT_ROOT_FIND if query.QueryRetrieveLevel == "PATIENT" else STUDY_ROOT_FIND
        if not any(context.abstract_syntax == model for context in assoc.accepted_contexts):
            raise Unchecked(f"the node refuses queries of {self.calling_ae_title}")
        answers, statuses = [], []
        for status, answer in assoc.send_c_find(query, model):
            if "Status" not in status:
                raise Unchecked("the query was not answered in time")
            statuses.append(int(status.Status))
            if answer is not None:
                answers.append(answer)
                if first_only:
                    assoc.abort()
                    break
        return answers, statuses

    @cached_property
    def specimen(self) -> Dataset:
        """An image of ours that the node has stored."""
        if not self.may_store:
            raise Unchecked("it stores an instance: give --store")
        ds = image(new_patient_id())
        status = self.store(ds)
        if status != 0:
            raise Unchecked(f"the node answers the C-STORE of a test image by 0x{status:04X}")
        return ds

    def store(self, ds: Dataset) -> int:
        """Send an instance; return the status."""
        if not self.may_store:
            raise Unchecked("it stores an instance: give --store")
        assoc = self.associate([build_context(CT_IMAGE, ExplicitVRLittleEndian)])
        try:
            return int(assoc.send_c_store(ds).get("Status", -1))
        finally:
            assoc.release()

    @cached_property
    def entities(self) -> Mapping[Level, Dataset]:
        """One patient, study, series and image that belong together, with all that the node returns of each."""
        found: dict[Level, Dataset] = {}
        known: dict[str, str] = {}
        if self.may_store:
            known["StudyInstanceUID"] = str(self.specimen.StudyInstanceUID)
        for level in (Level.STUDY, Level.SERIES, Level.IMAGE):
            answers, _ = self.find(query_of(level, known), first_only=level is Level.STUDY)
            if not answers:
                raise Unchecked("the archive has nothing to query; give --store")
            found[level] = answers[0]
            known[UNIQUE_KEYS[level]] = str(answers[0].get(UNIQUE_KEYS[level], ""))
        study = dict(list(known.items())[:1])
        query = query_of(Level.STUDY, study)
        query.PatientID = None
        patient_id = str(self.find(query)[0][0].get("PatientID") or "")
        if patient_id:
            found[Level.PATIENT] = self.find(query_of(Level.PATIENT, {"PatientID": patient_id}))[0][0]
        return found

    def unique_keys(self, level: Level) -> dict[str, str]:
        """Return the unique keys of the entity at a level, and of those above it."""
        if level is Level.PATIENT:
            return {"PatientID": str(self.entity(level).PatientID)}
        above = [one for one in (Level.STUDY, Level.SERIES, Level.IMAGE) if one <= level]
        return {UNIQUE_KEYS[one]: str(self.entity(one)[UNIQUE_KEYS[one]].value) for one in above}

    def entity(self, level: Level) -> Dataset:
        """Return the entity at a level."""
        if level not in self.entities:
            raise Unchecked("the study has no Patient ID")
        return self.entities[level]

    @cached_property
    def client(self) -> httpx2.Client:
        """A client of its HTTP server; Unchecked says why there is none."""
        if not self.web or self.web_is_away:
            raise Unchecked(self.web_is_away or "the node serves no HTTP")
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        client = httpx2.Client(base_url=self.web, headers=headers, timeout=self.timeout)
        try:
            client.get("/healthz")
        except (httpx2.HTTPError, OSError) as error:
            self.web_is_away = f"{self.web} does not answer: {type(error).__name__}"
            raise Unchecked(self.web_is_away) from error
        return client

    def request(self, method: str, path: str, **how: Any) -> httpx2.Response:
        """Send a request; Unchecked if it is not answered, or the account may not."""
        try:
            answer = self.client.request(method, path, **how)
        except httpx2.HTTPError as error:
            raise Unchecked(f"{path} is not answered: {type(error).__name__}") from error
        if answer.status_code in (401, 403):
            raise Unchecked(f"the node answers {answer.status_code}: give --token-file of an account that may")
        if answer.status_code == 503:
            raise Unchecked("the node answers 503")
        return answer

    @cached_property
    def uids(self) -> Mapping[str, str]:
        """The UIDs of one instance, by the variables of paths; found by a search."""
        query = {"limit": "1", "includefield": "StudyInstanceUID,SeriesInstanceUID"}
        if self.may_store:
            query["StudyInstanceUID"] = str(self.specimen.StudyInstanceUID)
        else:
            studies = self.request("GET", "/dicom-web/studies", params={"limit": "1"}, headers={"Accept": DICOM_JSON})
            if studies.status_code != 200 or not studies.json():
                raise Unchecked("the archive has nothing to retrieve; give --store")
            query["StudyInstanceUID"] = studies.json()[0]["0020000D"]["Value"][0]
        answer = self.request("GET", "/dicom-web/instances", params=query, headers={"Accept": DICOM_JSON})
        if answer.status_code != 200 or not answer.json():
            raise Unchecked("a search finds no instance of the study")
        tags = {"study": "0020000D", "series": "0020000E", "instance": "00080018"}
        found = {name: str(answer.json()[0][tag]["Value"][0]) for name, tag in tags.items()}
        return {**found, "frames": "1", "path": "7FE00010"}

    def close(self) -> None:
        """Release what is open."""
        if "_queries" in self.__dict__ and self._queries.is_established:
            self._queries.release()
        if "client" in self.__dict__:
            self.client.close()


def query_of(level: Level, known: Mapping[str, str]) -> Dataset:
    """Return an identifier that asks for every supported key of a level."""
    query = Dataset()
    query.SpecificCharacterSet, query.QueryRetrieveLevel = "ISO_IR 192", level.name
    for keyword in SUPPORTED[level]:
        if key_of(keyword, level) is not None:
            setattr(query, keyword, [] if keyword.endswith("Sequence") else None)
    for keyword, value in known.items():
        setattr(query, keyword, value)
    return query


def storage_role() -> Any:
    """Return the role of an SCP of images, for C-GET."""
    return build_role(CT_IMAGE, scp_role=True)
