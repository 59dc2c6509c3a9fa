"""The walk over the elements of a data set, which every reader of `node.dicom.header` makes.

The walk never recurses (nested sequences are counted, not entered), never allocates by a length that it read, stops
before the pixels, and has a budget of elements.
"""

import struct
from math import inf

from node.dicom.encoding import (
    IMPLICIT_LITTLE_ENDIAN,
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED_LENGTH,
    encoding_of,
    found_syntax,
)
from node.errors import NotUnderstood

PIXELS_GROUP, PIXEL_DATA = 0x7FE0, 0x7FE00010
ITEM_GROUP = (b"\xfe\xff", b"\xff\xfe")

MAX_NESTING = 256
"""Maximum nesting of sequences; real data sets stay below ten."""

MAX_ELEMENTS = 200_000
"""Maximum number of elements before the pixels, nested ones included: a tenth of a second of a processor."""

MAX_VALUE_BYTES = 4096
"""Bytes of a value that are kept: more than 324 characters of a PN take in any character set (PS3.5 6.2)."""

MAX_SEQUENCE_BYTES = 16_384
"""Bytes of a sequence that are kept: a dozen items of the Request Attributes Sequence."""

MAX_OTHER_BYTES, MAX_OTHER_SEQUENCE_BYTES = 1024, 8192
"""Longest value, and longest sequence, of `Elements`."""

PER_FRAME_FUNCTIONAL_GROUPS = 0x52009230
"""A sequence as long as the pixels have frames, which is not walked for the elements behind it."""

Elements = dict[int, tuple[bytes, bytes | None]]
"""VR (empty if the encoding has none) and value by tag. None: the value is too long to be kept. The value of a sequence
is its items, for `read_sequence`."""


class TooManyElements(NotUnderstood):
    """A data set has more elements than it may have."""


class HeaderCut(Exception):
    """The bytes end before the last wanted element; the walk can go on at `offset`, which may be beyond the end."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the data set ends within the element at byte {offset}")
        self.offset = offset


def is_sequence(tag: int) -> bool:
    """Return whether the data dictionary (PS3.6) calls an element a sequence."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR  # here, because finding files needs no dictionary

    return dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"


def _require_element(tag: int, at: int) -> None:
    """Raise NotUnderstood for an item or a delimiter where no sequence is open: nobody knows what follows it."""
    if tag >> 16 == 0xFFFE:
        raise NotUnderstood(f"(FFFE,{tag & 0xFFFF:04X}) at byte {at} is in no sequence (PS3.5 7.5)")


def too_many_elements(tag: int) -> TooManyElements:
    """Return the refusal of a header that takes too long to walk."""
    return TooManyElements(
        f"more than {MAX_ELEMENTS} elements before the pixels, at ({tag >> 16:04X},{tag & 0xFFFF:04X})"
    )


def syntax_of_items(raw: bytes, announced: str) -> str:
    """Return the transfer syntax by whose encoding to read items: their first element shows it."""
    at = 0
    while raw[at : at + 2] in ITEM_GROUP:
        at += 8
    return found_syntax(raw[at:], announced)


class Walker:
    """A position in the bytes, and the encoding at that position."""

    def __init__(
        self,
        data: bytes | bytearray | memoryview,
        transfer_syntax_uid: str,
        max_elements: int = MAX_ELEMENTS,
        at: int = 0,
        *,
        is_cut: bool = True,
    ) -> None:
        self.data, self.at, self.end, self.left, self.most = data, at, len(data), max_elements, max_elements
        self.is_cut = is_cut  # there may be more than the bytes
        self.is_at_end = False  # the bytes ended behind an element, before the last wanted one
        self.encoding = encoding_of(transfer_syntax_uid)
        self.implicit = self.encoding.is_implicit
        self.vr = b""

    def values(self, wanted: frozenset[int], elements: dict[int, bytes]) -> dict[int, bytes]:
        """Add the values of the wanted tags to `elements`; sequences of undefined length are skipped."""
        data, at, end, short_head = self.data, self.at, self.end, self.encoding.short_head
        last = min(max(wanted), (PIXELS_GROUP << 16) - 1)
        left = self.left
        while at < end:
            begin = at
            # Equivalent to `element`, at a third of its cost, for the encoding of nearly all elements.
            if not self.implicit and at + 8 <= end and (head := short_head(data, at))[2] in SHORT_VRS:
                tag, length, at = head[0] << 16 | head[1], head[3], at + 8
            else:
                self.at, self.left = at, left
                tag, length = self.element(begin)
                at = self.at
            if tag > last:
                self.at = begin
                _require_element(tag, begin)
                return elements
            if (left := left - 1) < 0:
                raise too_many_elements(tag)
            if length == UNDEFINED_LENGTH:
                self.left = left
                is_wanted = tag in wanted and tag not in elements and is_sequence(tag) and self.vr != b"UN"
                self.skip_undefined(tag, begin)
                if is_wanted:
                    elements[tag] = bytes(data[at : min(self.at, at + MAX_SEQUENCE_BYTES)])
                at, left = self.at, self.left
                continue
            stop = at + length
            if tag in wanted and tag not in elements:
                is_short = length <= MAX_VALUE_BYTES or not is_sequence(tag)
                end_of_value = min(stop, at + (MAX_VALUE_BYTES if is_short else MAX_SEQUENCE_BYTES))
                if end_of_value > end:
                    self.left = left
                    raise HeaderCut(begin)
                elements[tag] = bytes(data[at:end_of_value])
            if stop > end:
                self.left = left
                raise HeaderCut(stop)
            at = stop
        self.at, self.left, self.is_at_end = at, left, True
        return elements

    def rest(self, elements: Elements, end: int, pieces: list[tuple[int, bytes, int]] | None = None) -> bool:
        """Add the elements up to `end`, to the end of an item or to the pixels; return whether these are all."""
        while self.at < end:
            begin = self.at
            tag, length = self.element(begin)
            if tag == ITEM_END or tag >> 16 == PIXELS_GROUP:
                return True
            if tag == PER_FRAME_FUNCTIONAL_GROUPS:
                elements[tag] = self.vr, None
                return False
            self.left -= 1
            if self.left < 0:
                return False
            at, vr = self.at, self.vr
            if length == UNDEFINED_LENGTH:
                self.skip_undefined(tag, begin)
            elif at + length > end:
                raise HeaderCut(begin)
            else:
                self.at = at + length
            self._keep(elements, tag, vr, at)
            if pieces is not None:
                is_compared = length == UNDEFINED_LENGTH or elements[tag][1] is not None
                pieces.append((tag, bytes(self.data[begin : self.at if is_compared else at]), self.at - begin))
        return True

    def keep_one(self, tag: int, elements: Elements) -> bool:
        """Add the current element; return False if it has another tag, or its length is undefined."""
        found, length = self.element(self.at)
        begin, self.at = self.at, self.at + length
        if found != tag or self.at > self.end:  # an undefined length is the largest one
            return False
        self._keep(elements, tag, self.vr, begin)
        return True

    def count(self, *, to_frames: bool = False) -> None:
        """Walk over the elements and items on all levels, to the end or to those that there are for each frame."""
        opened: list[tuple[float, bool]] = []  # where sequences end, and whether it is implicit around them
        while self.at < self.end:
            while opened and opened[-1][0] <= self.at:
                self.implicit = opened.pop()[1]
            begin = self.at
            tag, length = self.element(begin)
            if to_frames and (tag == PER_FRAME_FUNCTIONAL_GROUPS or (tag, length) == (PIXEL_DATA, UNDEFINED_LENGTH)):
                self.at = begin
                return
            self.left -= 1
            if self.left < 0:
                raise TooManyElements(f"more than {self.most} elements and items, at byte {begin}")
            is_undefined = length == UNDEFINED_LENGTH
            if tag == SEQUENCE_END and opened and opened[-1][0] == inf:
                self.implicit = opened.pop()[1]
            elif tag >> 16 == 0xFFFE:
                continue  # what an item holds is next
            elif self.enters(tag) or (self.vr in (b"", b"UN") and self.data[self.at : self.at + 2] in ITEM_GROUP):
                if len(opened) == MAX_NESTING:
                    raise NotUnderstood(f"sequences are nested deeper than {MAX_NESTING} levels, at byte {begin}")
                opened.append((inf if is_undefined else self.at + length, self.implicit))
                self.implicit = self.implicit or self.vr == b"UN"  # PS3.5 6.2.2
            elif is_undefined:
                self.skip_undefined(tag, self.at)
            else:
                self.at += length

    def is_at_pixels(self, at: int) -> bool:
        """Return whether the element at an offset is of the pixels."""
        self.at = at
        return self.element(at)[0] >> 16 == PIXELS_GROUP

    def _keep(self, elements: Elements, tag: int, vr: bytes, begin: int) -> None:
        """Add the element whose value ends here, unless it is too long."""
        length = self.at - begin
        is_of_items = vr == b"SQ" or (not vr and length > MAX_OTHER_BYTES and is_sequence(tag))
        is_short = length <= (MAX_OTHER_SEQUENCE_BYTES if is_of_items else MAX_OTHER_BYTES)
        elements[tag] = vr, bytes(self.data[begin : self.at]) if is_short else None

    def enters(self, tag: int) -> bool:
        """Return whether the current element is a sequence, one of its items or an end: what it holds is next."""
        return tag >> 16 == 0xFFFE or self.vr == b"SQ" or (self.implicit and is_sequence(tag))

    def element(self, begin: int) -> tuple[int, int]:
        """Return tag and length of the current element, and move to its value (PS3.5 7.1.2, 7.1.3).

        `begin` is where its element of the top level begins, and where the walk goes on if the bytes end here.
        """
        try:
            tag, self.vr, length, self.at = self.encoding.head(
                self.data, self.at, is_implicit=self.implicit, is_whole=not self.is_cut
            )
        except struct.error:
            raise HeaderCut(begin) from None
        return tag, length

    def item(self, length: int, wanted: frozenset[int], elements: dict[int, bytes]) -> None:
        """Add the values of the wanted tags of the current item to `elements`, and move behind it."""
        end = self.end if length == UNDEFINED_LENGTH else min(self.end, self.at + length)
        while self.at < end:
            tag, length = self.element(self.at)
            if tag == ITEM_END:
                return
            if length == UNDEFINED_LENGTH:
                self.skip_undefined(tag, self.at)
                continue
            stop = self.at + length
            if tag in wanted and stop <= end:
                elements.setdefault(tag, bytes(self.data[self.at : min(stop, self.at + MAX_VALUE_BYTES)]))
            self.at = stop

    def skip_undefined(self, tag: int, begin: int) -> None:
        """Skip the current value of undefined length: a sequence, or a UN that contains one (PS3.5 6.2.2)."""
        open_values = [(SEQUENCE_END, self.implicit)]  # closing delimiter, and whether the encoding outside is implicit
        self.implicit = self.implicit or self.vr == b"UN"
        while open_values:
            inner, length = self.element(begin)
            self.left -= 1
            if self.left < 0:
                raise too_many_elements(tag)
            if inner == open_values[-1][0]:
                self.implicit = open_values.pop()[1]
            elif length != UNDEFINED_LENGTH:
                self.at += length
                if self.at > self.end:
                    raise HeaderCut(begin)
            else:
                open_values.append((ITEM_END if inner == ITEM else SEQUENCE_END, self.implicit))
                self.implicit = self.implicit or (inner != ITEM and self.vr == b"UN")
                if inner == ITEM and not self.encoding.is_implicit:  # it may be encoded otherwise than its sequence
                    around = IMPLICIT_LITTLE_ENDIAN if self.implicit else self.encoding.transfer_syntax_uid
                    self.implicit = found_syntax(memoryview(self.data)[self.at :], around) == IMPLICIT_LITTLE_ENDIAN
                if len(open_values) > 2 * MAX_NESTING:
                    raise NotUnderstood(
                        f"sequence ({tag >> 16:04X},{tag & 0xFFFF:04X}) is nested deeper than {MAX_NESTING} levels"
                    )
