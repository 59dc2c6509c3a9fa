"""Which transfer syntax a presentation context gets, without a socket."""

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from node.association.admission import EVERY_VERB
from node.association.contexts import VERBS, Proposal, negotiated
from node.association.request import ProposedContext
from node.volume.read.transfer_syntaxes import choose_target

CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG, LOSSLESS, EXPLICIT, IMPLICIT = map(
    str, (JPEG2000Lossless, JPEGLSLossless, ExplicitVRLittleEndian, ImplicitVRLittleEndian)
)


def chosen(*offers: tuple[str, ...], is_scp: bool = True) -> list[str]:
    contexts = tuple(ProposedContext(2 * number + 1, CT, syntaxes) for number, syntaxes in enumerate(offers))
    proposal = Proposal(contexts, EVERY_VERB, VERBS, {CT: (True, True)} if is_scp else {})
    return [answer.transfer_syntax_uid for answer in negotiated(proposal).contexts]


@pytest.mark.parametrize(
    ("offers", "expected"),
    [
        ([(IMPLICIT, EXPLICIT)], [IMPLICIT]),
        ([(EXPLICIT, IMPLICIT)], [EXPLICIT]),
        ([(JPEG, IMPLICIT, EXPLICIT)], [IMPLICIT]),  # in JPEG, what is stored uncompressed could not be sent
        ([(JPEG,)], [JPEG]),
        ([(JPEG, EXPLICIT), (IMPLICIT,)], [JPEG, IMPLICIT]),  # the second one takes everything
        ([(JPEG, EXPLICIT), (JPEG, IMPLICIT)], [JPEG, IMPLICIT]),  # as well
        ([(JPEG, LOSSLESS, IMPLICIT)] * 3, [JPEG, LOSSLESS, IMPLICIT]),
        ([(IMPLICIT,), (JPEG, EXPLICIT), (EXPLICIT,)], [IMPLICIT, JPEG, EXPLICIT]),
        ([(JPEG,), (JPEG, IMPLICIT)], [JPEG, IMPLICIT]),
        ([(JPEG, EXPLICIT), ()], [EXPLICIT, ""]),
    ],
)
def test_a_provider_of_storage_gets_its_first_syntax_in_which_all_can_be_sent(
    offers: list[tuple[str, ...]], expected: list[str]
) -> None:
    assert chosen(*offers) == expected


def test_a_sender_gets_its_first_syntax() -> None:
    assert chosen((JPEG, EXPLICIT), is_scp=False) == [JPEG]


def test_what_is_transcoded_goes_out_in_the_preferred_order() -> None:
    assert choose_target(JPEG, [IMPLICIT, EXPLICIT], [IMPLICIT, EXPLICIT]) == IMPLICIT
    assert choose_target(JPEG, [IMPLICIT, EXPLICIT], [JPEG, EXPLICIT, IMPLICIT]) == EXPLICIT
