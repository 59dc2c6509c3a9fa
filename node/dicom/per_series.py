"""Facts that the instances of a series share: found once, and again only if one of the declared elements differs.

A time series has 20,000 instances. Most of their elements have the same bytes, and `node.dicom.reading` lets data sets
share such elements. To see that twenty elements are those of the data set before takes a tenth of the time of reading
their values.

A function sees the elements that it declares and no others. An element that was forgotten is absent in every data set:
a test of the function fails, and no instance gets a fact that comes from another one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from pydicom import Dataset
from pydicom.dataelem import RawDataElement

from node.dicom.values import Element, copy_encoding, held_elements, standard_tag

Fact = TypeVar("Fact")
Arguments = ParamSpec("Arguments")

Function = Callable[Concatenate[Dataset, Arguments], Fact]


def once_per_series(*keywords: str) -> Callable[[Function[Arguments, Fact]], Function[Arguments, Fact]]:
    """Let a function give its last result again while the elements that it declares, and its arguments, are the same.

    `*keywords`: keywords of the elements. The function is called with a data set that consists of these and of Specific
        Character Set (0008,0005), which decides what others mean; it has no File Meta Information. Nobody may change
        the result.

    A result is not kept if pydicom has converted an element, because a converted element can be changed.
    Threads may call the function at the same time.
    """
    tags = tuple(map(standard_tag, ("SpecificCharacterSet", *keywords)))

    def decorate(function: Function[Arguments, Fact]) -> Function[Arguments, Fact]:
        last: _Last | None = None

        @wraps(function)
        def call(ds: Dataset, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Fact:
            nonlocal last
            found: tuple[Element | None, ...] = tuple(map(held_elements(ds).get, tags))
            if last is not None and last.found == found and last.arguments == (arguments, named):
                known: Fact = last.fact
                return known
            elements = [element for element in found if element is not None]
            given = Dataset({element.tag: element for element in elements})
            copy_encoding(ds, given)
            fact = function(given, *arguments, **named)
            if all(map(_is_fixed, elements)):
                last = _Last(found, (arguments, named), fact)
            return fact

        return call

    return decorate


def _is_fixed(element: Element) -> bool:
    """Return whether an element is here as it was read; pydicom has neither converted it nor left it in its file."""
    return isinstance(element, RawDataElement) and (element.value is not None or not element.length)


class _Last(NamedTuple):
    """A result, the elements that it came from (None: absent), and the arguments."""

    found: tuple[Element | None, ...]
    arguments: tuple[Any, Any]
    fact: Any
