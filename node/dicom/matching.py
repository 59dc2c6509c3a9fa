"""Parse a query of C-FIND or QIDO-RS: an identifier becomes conditions and returned keys (PS3.4 C.2.2).

`read_query` interprets the keys; `node.index.look.finder` searches the index.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydicom.datadict import dictionary_description, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag

from node.dicom.attributes import clean_text, is_uid
from node.dicom.documents import DOCUMENT_VRS, PIXELS, DocumentKey, document_key, private_name, standard_name, vr_of
from node.dicom.key_values import Between, InItem, Match, OneOf, combined_moments, compared, matches_of, require_order
from node.dicom.keys import (
    KEYS_OF_ANSWERS,
    TIMEZONE,
    UNIQUE_KEYS,
    IdentifierMismatch,
    InvalidQuery,
    Key,
    Level,
    QueryModel,
    key_of,
)
from node.dicom.values import CONVERSION_ERRORS, held, held_elements, standard_tag

MAX_KEY_LENGTH = 1024
"""Maximum characters in a value of a key. A PN has up to 324, and a pattern may be longer than the matching text."""

MAX_MATCHES = 100
"""Maximum values, wildcards and ranges of a query, where any number of UIDs or numbers of one key is one. SQLite nests
expressions to a depth of 1000."""

_TIME_OF_DATE = {
    "StudyDate": "StudyTime",
    "SeriesDate": "SeriesTime",
    "ContentDate": "ContentTime",
    "PatientBirthDate": "PatientBirthTime",
    "PerformedProcedureStepStartDate": "PerformedProcedureStepStartTime",
}
"""The pairs that combined date-time matching joins (PS3.4 C.2.2.2.5.4)."""

_NO_KEYS = frozenset(
    {
        "SpecificCharacterSet",  # the encoding of the identifier, which is already decoded
        "QueryRetrieveLevel",
        "QueryRetrieveView",
        "RetrieveAETitle",  # added by the responder
    }
)

_OF_THE_NODE = frozenset({"RetrieveURL", "RetrieveURI", *KEYS_OF_ANSWERS})
"""What instances have of these attributes is not meant."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A key and its matches, one of which must hold: several values of a key are alternatives."""

    key: Key
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """Negotiated query options (PS3.4 C.5.1.1); QIDO-RS always has the first two (PS3.18 8.3.4).

    `timezone`: whether a value of *Timezone Offset From UTC* (0008,0201) is matched. In C-FIND it says how the times of
    the identifier are meant (PS3.4 C.4.1.1.3.1), and many requestors send it.
    """

    relational: bool = False
    combined_datetime: bool = False
    fuzzy: bool = False
    timezone: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query.

    `level`: level of the answers.
    `conditions`: conditions that must all hold. Those of a lower level hold if one entity below matches all of them.
    `returned`: keywords of the returned attributes, including the unique keys.
    `items`: keywords of the returned attributes in the items of a returned sequence.
    `unsupported`: keys that are not matched, as keyword or tag: unsupported optional keys (PS3.4 C.2.2.1.3), keys of a
        lower level, and values of a key that is only returned.
    `limit`, `offset`: limit and offset in the ordered answers; None: no limit.
    `documents`: keys for attributes that have no column. An entity matches if one instance of it matches all of them.
    `with_all`: all attributes are returned.
    `malformed`: a value that is no UID (PS3.5 9.1): a query that finds nothing is refused for it, since some senders
        have such.
    """

    level: Level
    conditions: tuple[Condition, ...]
    returned: tuple[str, ...]
    items: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()
    limit: int | None = None
    offset: int = 0
    documents: tuple[DocumentKey, ...] = ()
    with_all: bool = False
    malformed: InvalidQuery | None = None

    @property
    def reads_documents(self) -> bool:
        """Whether answers have attributes that have no column."""
        return bool(self.documents) or self.with_all


def read_query(
    identifier: Dataset,
    model: QueryModel = QueryModel.STUDY_ROOT,
    options: Options = Options(),
    *,
    limit: int | None = None,
    offset: int = 0,
    with_all: bool = False,
) -> Query:
    """Return the query of an identifier.

    `identifier`: the keys, with *Query/Retrieve Level* (0008,0052). Text is decoded by its *Specific Character Set*
        (0008,0005).
    `limit`, `offset`, `with_all`: see `Query`.

    Raises IdentifierMismatch: the level is not in the model, or the query is hierarchical and lacks a unique key above
        its level.
    Raises InvalidQuery: the value of a key violates its value representation or the matching rules.

    PS3.4 C.2.2 and C.4.1.1.3.1. Hierarchical queries also match keys of higher levels, which the standard does not
    require.
    """
    level = _level_of(identifier, model)
    conditions: list[Condition] = []
    returned = [UNIQUE_KEYS[above] for above in Level if model.value <= above <= level]
    returned_items: dict[str, tuple[str, ...]] = {}
    unsupported: list[str] = []
    documents: list[DocumentKey] = []
    for tag in map(BaseTag, identifier.keys()):  # iterating over a Dataset converts its elements
        keyword = keyword_for_tag(tag)
        if keyword in _NO_KEYS or tag.element == 0:  # group lengths are retired
            continue
        key = _key(keyword, level, options)
        if key is None or not _has_columns(key, identifier, tag):
            is_other = key is not None or (keyword not in _OF_THE_NODE and key_of(keyword, level) is None)
            of_document = _of_document(identifier, tag, options) if is_other else None
            documents += [] if of_document is None else [of_document]
            unsupported += [keyword or str(tag)] if of_document is None and not _is_creator(tag) else []
            continue
        if key.level <= level:
            returned.append(keyword)
        matches, names, unknown = _matches(key, identifier, tag, options)
        returned_items[keyword] = names
        unsupported += unknown
        if matches and key.matched:
            conditions.append(Condition(key, matches))
        elif matches or key.level > level:
            unsupported.append(keyword)
    if not options.relational:
        _require_unique_keys(conditions, level, model)
    if options.combined_datetime:
        conditions = _combined(conditions)
    _require_order(conditions)
    _require_few_matches(conditions, documents)
    unique = tuple(dict.fromkeys(returned))
    in_items = {keyword: names for keyword, names in returned_items.items() if names}
    others = tuple(documents)
    return Query(
        level,
        tuple(conditions),
        unique,
        in_items,
        tuple(unsupported),
        limit,
        offset,
        others,
        with_all,
        _malformed(conditions),
    )


def _malformed(conditions: list[Condition]) -> InvalidQuery | None:
    """Return the error for the first value that should be a UID and is none."""
    for condition in conditions:
        for match in condition.matches:
            if condition.key.vr != "UI" or not isinstance(match, OneOf):
                continue
            if not all(isinstance(value, str) and is_uid(value) for value in match.values):
                rule = "a value is no UID: digits and dots, at most 64 characters (PS3.5 9.1)"
                return InvalidQuery(standard_tag(condition.key.keyword), rule)
    return None


def _key(keyword: str, level: Level, options: Options) -> Key | None:
    """Return the key for a keyword in a query of a level, or None if it is unsupported."""
    key = key_of(keyword, level)
    return key if key is not None and (key.level <= level or options.relational) else None


def _has_columns(key: Key, identifier: Dataset, tag: BaseTag) -> bool:
    """Return whether columns have all that a key asks for; of some sequences they have a part."""
    known = {inner.keyword for inner in key.items}
    return not key.items or all(keyword_for_tag(inner) in known for inner in _tags(key_item(identifier, tag)))


def _tags(ds: Dataset) -> list[BaseTag]:
    return [BaseTag(tag) for tag in held_elements(ds)]  # iterating over a Dataset converts its elements


def _is_creator(tag: BaseTag) -> bool:
    return tag.is_private and tag.element < 0x1000


def _of_document(identifier: Dataset, tag: BaseTag, options: Options) -> DocumentKey | None:
    """Return the key for an attribute that has no column, or None if documents do not have it either."""
    if tag.group >= PIXELS or _is_creator(tag):
        return None
    creator = _creator_of(identifier, tag) if tag.is_private else ""
    if tag.is_private and not creator:
        return None
    name = private_name(tag.group, creator, tag.element) if creator else standard_name(tag)
    element = held(identifier, tag)
    vr = vr_of(tag) or (str(element.VR or "") if tag.is_private else "")
    vr = "" if vr == "UN" or (tag.is_private and not isinstance(element, RawDataElement) and vr == "LO") else vr
    if vr == "SQ":
        item = key_item(identifier, tag)
        keys = (_of_document(item, inner, options) for inner in _tags(item) if not _is_creator(inner))
        return document_key(name, tag, creator=creator, vr=vr, items=tuple(key for key in keys if key is not None))
    if vr and vr not in DOCUMENT_VRS:
        return None
    texts = _plain_texts(element) if creator else texts_of(identifier, tag)
    return document_key(name, tag, creator=creator, vr=vr, texts=texts, fuzzy=options.fuzzy)


def _creator_of(identifier: Dataset, tag: BaseTag) -> str:
    """Return the private creator that reserves the block of a key in the same data set (PS3.5 7.8.1)."""
    creator = BaseTag(tag.group << 16 | tag.element >> 8)
    values = texts_of(identifier, creator) if creator in identifier else []
    return clean_text(values[0]) or "" if values else ""


def _plain_texts(element: Any) -> list[str]:
    """Return the values of a private key; those of unknown VR are text as well."""
    value = element.value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace").split("\\")
    parts = value if isinstance(value, (MultiValue, list, tuple)) else [] if value is None else [value]
    texts = [str(part).strip(" \0") for part in parts]
    if any(len(text) > MAX_KEY_LENGTH for text in texts):
        raise InvalidQuery(element.tag, f"a value must not be longer than {MAX_KEY_LENGTH} characters")
    return texts


def _matches(
    key: Key, identifier: Dataset, tag: BaseTag, options: Options
) -> tuple[tuple[Match, ...], tuple[str, ...], list[str]]:
    """Return the matches of a key; of a sequence also the keywords returned of its items, and unsupported keys in it.

    A sequence without an item, or with an empty one, asks for all attributes of its items (PS3.4 C.2.2.2.6).
    """
    if key.keyword == TIMEZONE and not options.timezone:
        return (), (), []
    if not key.items:
        return matches_of(key, texts_of(identifier, tag), fuzzy=options.fuzzy), (), []
    item = key_item(identifier, tag)
    known = {inner.keyword: inner for inner in key.items}
    names = [keyword_for_tag(inner_tag) or str(inner_tag) for inner_tag in map(BaseTag, item.keys())]
    found = {
        name: matches_of(known[name], texts_of(item, standard_tag(name)), fuzzy=False)
        for name in names
        if name in known
    }
    wanted = tuple((known[name], matches) for name, matches in found.items() if matches)
    unsupported = [f"{key.keyword}.{name}" for name in names if name not in known]
    return (InItem(wanted),) if wanted else (), tuple(found or known), unsupported


def key_item(identifier: Dataset, tag: BaseTag) -> Dataset:
    """Return the item of a key that is a sequence; an empty one if it has none.

    Raises InvalidQuery if it has several.
    """
    try:
        value = identifier[tag].value if tag in identifier else None
    except CONVERSION_ERRORS:
        value = None
    found = [item for item in value if isinstance(item, Dataset)] if isinstance(value, Items) else []
    if len(found) > 1:
        raise InvalidQuery(tag, "a key that is a sequence must have one item (PS3.4 C.2.2.2.6)")
    return found[0] if found else Dataset()


def _level_of(identifier: Dataset, model: QueryModel) -> Level:
    tag = standard_tag("QueryRetrieveLevel")
    values = texts_of(identifier, tag) if tag in identifier else []
    allowed = [level.name for level in Level if level >= model.value]
    if len(values) != 1 or values[0] not in allowed:
        raise IdentifierMismatch(tag, f"Query/Retrieve Level must be one of {', '.join(allowed)} (PS3.4 C.6)")
    return Level[values[0]]


def _require_unique_keys(conditions: list[Condition], level: Level, model: QueryModel) -> None:
    """Raise unless a hierarchical query specifies one entity at each level above its own (PS3.4 C.4.1.2.1)."""
    matches = {condition.key.keyword: condition.matches for condition in conditions}
    for above in Level:
        if not model.value <= above < level:
            continue
        keyword = UNIQUE_KEYS[above]
        match matches.get(keyword, ()):
            case (OneOf(values),) if len(values) == 1:
                continue
        tag = standard_tag(keyword)
        raise IdentifierMismatch(
            tag,
            f"{dictionary_description(tag)} must have a single value at level {level.name}, unless relational queries "
            "are negotiated (PS3.4 C.4.1.2.1)",
        )


def texts_of(identifier: Dataset, tag: BaseTag) -> list[str]:
    """Return the values of a key as text without padding.

    Raises InvalidQuery if a value cannot be decoded, or is longer than `MAX_KEY_LENGTH`.
    """
    raw = held(identifier, tag)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # patterns and ranges are not valid values of their VR
        try:
            if isinstance(raw, RawDataElement) and raw.value and vr_of(tag) in ("IS", "DS"):
                value = raw.value.decode("ascii").split("\\")  # pydicom rejects a ``*`` there
            else:
                value = identifier[tag].value
            parts = value if isinstance(value, (MultiValue, list, tuple)) else [] if value is None else [value]
            texts = [_text(part) for part in parts]
        except CONVERSION_ERRORS as error:
            raise InvalidQuery(tag, "the value cannot be decoded (PS3.5 6.2)") from error
    if any(len(text) > MAX_KEY_LENGTH for text in texts):
        raise InvalidQuery(tag, f"a value must not be longer than {MAX_KEY_LENGTH} characters")
    return texts


def _text(part: object) -> str:
    return f"{part:08X}" if isinstance(part, BaseTag) else str(part).strip(" \0")


def _combined(conditions: list[Condition]) -> list[Condition]:
    """Join ranges of dates and of their times if both have the same form (PS3.4 C.2.2.2.5.4)."""
    combined = {condition.key.keyword: condition for condition in conditions}
    for date_keyword, time_keyword in _TIME_OF_DATE.items():
        dates, times = combined.get(date_keyword), combined.get(time_keyword)
        if dates is None or times is None:
            continue
        match dates.matches, times.matches:
            case (Between() as date,), (Between() as time,):
                moments = combined_moments(date, times.key, time)
                if moments is not None:
                    combined[date_keyword] = replace(dates, matches=(moments,))
                    del combined[time_keyword]
    return list(combined.values())


def _require_few_matches(conditions: list[Condition], documents: Sequence[DocumentKey]) -> None:
    counts = [(key.tag, max(1, len(key.texts))) for key in documents if key.restricts]
    counts += [(standard_tag(condition.key.keyword), compared(condition.matches)) for condition in conditions]
    total = 0
    for tag, count in counts:
        total += count
        if total > MAX_MATCHES:
            raise InvalidQuery(tag, f"a query must not have more than {MAX_MATCHES} values and wildcards: narrow it")


def _require_order(conditions: list[Condition]) -> None:
    for condition in conditions:
        for match in condition.matches:
            require_order(condition.key, match)
