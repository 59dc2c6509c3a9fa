"""Which series are meant: conditions on the facts of a series, in an expression or as a table.

An expression such as ``modality == "CT" and slices >= 50`` is compiled against the table of fields, so that an unknown
field, a value of another type or an unknown keyword is refused before the first series is looked at. The language has
comparisons, ``and``, ``or``, ``not`` and parentheses, and nothing else: no calls, no arithmetic and no regular
expressions. The time that a match takes therefore grows with the length of the expression alone, and an expression may
come from the network.

    expression = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation = "not" negation | "(" expression ")" | comparison
    comparison = field operator value | field ["not"] "in" "[" value { "," value } "]"

Missing values never raise: no comparison holds for a missing value but ``!=`` and ``not in``, which hold whenever
``==`` and ``in`` do not.
"""

import datetime as dt
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from node.errors import UsageError, nearest
from node.selector.fields import FIELDS, KNOWN_LATER, NOT_CONVERTED, ORDERS, Field, test_of

Facts = Mapping[str, Any]
"""What is known of a series: a value for each field, a list for those with several; None is a missing value."""

Fields = Mapping[str, Field]
"""The fields that a selector may compare, by name."""

HELP = "voxelnode help select"
"""Lists the fields."""

MAX_LENGTH = 2000
MAX_DEPTH = 30
MAX_VALUES = 100

_TOKEN = re.compile(
    r"""(?P<text>"[^"]*"|'[^']*')|(?P<number>-?[0-9]+(?:\.[0-9]+)?(?![\w.]))|(?P<word>[A-Za-z_]\w*)"""
    r"""|(?P<sign>==|!=|<=|>=|<(?!>)|>|[()\[\],])"""
)
_SPACE = re.compile(r"\s*")
_OTHER_SIGNS = {"=": "==", "<>": "!=", "&&": "and", "||": "or", "!": "not", "&": "and", "|": "or"}
_WORDS = ("and", "or", "not", "in", "null")
_OF_TABLE = re.compile(r"\s*(==|!=|<=|>=|<|>)?\s*(.*?)\s*", re.DOTALL)


class WrongSelector(UsageError):
    """A selector is wrong; the message gives the value, the rule, the position in an expression and the remedy."""


class _Condition:
    """A part of a selector, of which each kind says whether it holds. `text`: as it was written."""

    text: str

    def holds(self, facts: Facts) -> bool:
        raise NotImplementedError

    def fields(self) -> set[str]:
        raise NotImplementedError

    def may_be(self, wanted: bool, facts: Facts, unknown: Collection[str]) -> bool:
        """Return whether some values of the `unknown` fields make the condition hold, or with `wanted` False, fail."""
        raise NotImplementedError

    def failures(self, facts: Facts, unknown: Collection[str]) -> list[tuple[str, str]]:
        """Return the clauses that fail, with the values that make them fail; empty if the condition holds."""
        return [] if self.holds(facts) else [(self.text, self.instead(facts, unknown))]

    def instead(self, facts: Facts, unknown: Collection[str]) -> str:
        """Return the values that make the condition fail, or that the conversion decides."""
        if self.may_be(True, facts, unknown):
            return NOT_CONVERTED
        return ", ".join(f"{name} is {_shown(facts[name])}" for name in sorted(self.fields()))


class Selector:
    """A compiled selector. Thread-safe.

    `fields`: the fields that it reads; facts need no others.
    """

    def __init__(self, source: str | Mapping[str, Any], condition: _Condition) -> None:
        self._source, self._condition = source, condition
        self.fields: frozenset[str] = frozenset(condition.fields())

    def __str__(self) -> str:
        return str(self._source)

    def matches(self, facts: Facts) -> bool:
        """Return whether a series is selected."""
        return self._condition.holds(facts)

    def may_match(self, facts: Facts) -> bool:
        """Return whether a series is selected, or may be when it is converted; `facts` have its ``state``, too."""
        return self._condition.may_be(True, facts, _known_later(facts))

    def why_not(self, facts: Facts) -> list[tuple[str, str]]:
        """Return (clause, what is there instead) for the clauses that keep a series from being selected.

        If `facts` have its ``state``, `NOT_CONVERTED` stands for what only the conversion tells.
        """
        return self._condition.failures(facts, _known_later(facts))


def _known_later(facts: Facts) -> frozenset[str]:
    """Return the missing fields of an open series that its conversion may tell."""
    if facts.get("state") not in ("receiving", "converting"):
        return frozenset()
    return frozenset(name for name, value in facts.items() if name in KNOWN_LATER and not value)


def compile_selector(where: str | Mapping[str, Any], fields: Fields = FIELDS) -> Selector:
    """Compile an expression or a table.

    `where`: an expression, or a table of fields with values: a value, a list of alternatives, or a text with an
    operator and a value such as ``">=50"``. All entries of a table must hold. `fields`: the fields that it may compare.
    """
    if isinstance(where, str):
        return Selector(where, _Parser(where, fields).whole())
    if not where:
        raise WrongSelector("an empty table selects nothing in particular: name a field, or leave it out")
    return Selector(where, _All(tuple(_of_table(name, value, fields) for name, value in where.items())))


def without(selector: Selector | None, others: Sequence[Selector]) -> Selector | None:
    """Return what selects the series that `selector` selects and none of `others` does; None selects all."""
    conditions = [selector._condition] if selector is not None else []
    conditions += [_Not(other._condition, f"not ({other})") for other in others]
    sources = [str(selector)] if selector is not None else []
    if not conditions:
        return None
    return Selector(" and ".join(sources + [f"not ({other})" for other in others]), _All(tuple(conditions)))


def clauses_about(selector: Selector, fields: Collection[str]) -> Selector | None:
    """Return the clauses, joined by ``and``, that read no other field than these; None if there are none."""
    condition = selector._condition
    clauses = condition.parts if type(condition) is _All else (condition,)
    about = tuple(clause for clause in clauses if clause.fields().issubset(fields))
    return Selector(str(selector), _All(about)) if about else None


@dataclass(frozen=True, slots=True)
class _Comparison(_Condition):
    """One field compared with values, any of which may fit; `negated` for ``!=`` and ``not in``."""

    field: str
    several: bool
    test: Callable[[Any], bool]
    negated: bool
    text: str

    def holds(self, facts: Facts) -> bool:
        value = facts[self.field]
        values = value if self.several else (value,)
        # A field with several values and none at all is missing.
        return any(map(self.test, values or (None,))) is not self.negated

    def fields(self) -> set[str]:
        return {self.field}

    def may_be(self, wanted: bool, facts: Facts, unknown: Collection[str]) -> bool:
        return self.field in unknown or self.holds(facts) is wanted


@dataclass(frozen=True, slots=True)
class _All(_Condition):
    parts: tuple[_Condition, ...]

    def holds(self, facts: Facts) -> bool:
        return all(part.holds(facts) for part in self.parts)

    def fields(self) -> set[str]:
        return set().union(*(part.fields() for part in self.parts))

    def may_be(self, wanted: bool, facts: Facts, unknown: Collection[str]) -> bool:
        return (all if wanted else any)(part.may_be(wanted, facts, unknown) for part in self.parts)

    def failures(self, facts: Facts, unknown: Collection[str]) -> list[tuple[str, str]]:
        return [failure for part in self.parts for failure in part.failures(facts, unknown)]


@dataclass(frozen=True, slots=True)
class _Any(_All):
    def holds(self, facts: Facts) -> bool:
        return any(part.holds(facts) for part in self.parts)

    def may_be(self, wanted: bool, facts: Facts, unknown: Collection[str]) -> bool:
        return (any if wanted else all)(part.may_be(wanted, facts, unknown) for part in self.parts)

    def failures(self, facts: Facts, unknown: Collection[str]) -> list[tuple[str, str]]:
        return [] if self.holds(facts) else _All.failures(self, facts, unknown)


@dataclass(frozen=True, slots=True)
class _Not(_Condition):
    part: _Condition
    text: str

    def holds(self, facts: Facts) -> bool:
        return not self.part.holds(facts)

    def fields(self) -> set[str]:
        return self.part.fields()

    def may_be(self, wanted: bool, facts: Facts, unknown: Collection[str]) -> bool:
        return self.part.may_be(not wanted, facts, unknown)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


class _Parser:
    """A recursive descent over the tokens of one expression."""

    def __init__(self, source: str, fields: Fields) -> None:
        self._fields = fields
        if len(source) > MAX_LENGTH:
            raise WrongSelector(f"an expression has at most {MAX_LENGTH} characters; this one has {len(source)}")
        self._source, self._depth, self._next = source, 0, 0
        self._tokens = self._read()

    def whole(self) -> _Condition:
        """Return the condition of the whole expression."""
        condition = self._either()
        token = self._peek()
        if token.kind != "end":
            close = nearest(token.text, ("and", "or")) if token.kind == "word" else ": write and, or"
            self._refuse(f"{token.text} does not belong here{close}", token)
        return condition

    def _read(self) -> list[_Token]:
        tokens, at = [], 0
        while (at := _SPACE.match(self._source, at).end()) < len(self._source):  # type: ignore[union-attr]
            match = _TOKEN.match(self._source, at)
            if match is None:
                self._refuse_character(at)
            tokens.append(_Token(str(match.lastgroup), match[0], at, match.end()))
            at = match.end()
        return [*tokens, _Token("end", "", at, at)]

    def _refuse_character(self, at: int) -> NoReturn:
        rest = self._source[at : at + 2]
        end = _Token("", "", at, at)
        for sign, right in _OTHER_SIGNS.items():
            if rest == sign or (rest[0] == sign and len(sign) == 1 and rest not in _OTHER_SIGNS):
                self._refuse(f"{sign} is not an operator, write {right}", end)
        if rest[0] in "\"'":
            self._refuse(f"the text that begins with {rest[0]} does not end: close it with {rest[0]}", end)
        if rest[0].isdigit() or rest[0] == "-":
            self._refuse(
                'not a number; write it as 50 or 0.5, and text, dates and UIDs in quotes, as "2026-01-31"', end
            )
        self._refuse(f"{rest[0]!r} has no meaning here; write text in quotes", end)

    def _refuse(self, problem: str, token: _Token) -> NoReturn:
        where = f"at character {token.start + 1}" if token.kind != "end" else "at the end"
        raise WrongSelector(f"{where}: {problem}")

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> _Token | None:
        """Take the next token if it is one of `texts`."""
        token = self._peek()
        if token.kind in ("text", "number") or token.text not in texts:
            return None
        self._next += 1
        return token

    def _either(self) -> _Condition:
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else _Any(tuple(parts))

    def _both(self) -> _Condition:
        parts = [self._negation()]
        while self._take("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else _All(tuple(parts))

    def _negation(self) -> _Condition:
        start = self._peek()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(f"at most {MAX_DEPTH} parentheses and not within one another", start)
        condition: _Condition
        if self._take("not"):
            inner = self._negation()
            condition = _Not(inner, self._source[start.start : self._tokens[self._next - 1].end])
        elif self._take("("):
            condition = self._either()
            if not self._take(")"):
                self._refuse(f"the parenthesis at character {start.start + 1} is not closed: write )", self._peek())
        else:
            condition = self._comparison()
        self._depth -= 1
        return condition

    def _comparison(self) -> _Condition:
        name = self._peek()
        if name.kind != "word" or name.text in _WORDS:
            self._refuse(f"a field is expected{f', not {name.text}' if name.text else ''}", name)
        if name.text not in self._fields:
            self._refuse(_unknown(name.text, self._fields), name)
        field = self._fields[name.text]
        self._next += 1
        sign = self._peek()
        negated = self._take("not") is not None
        if self._take("in"):
            operator_, values = "in", self._list()
        elif negated:
            self._refuse("not is followed by in here; write not before the whole comparison", self._peek())
        elif self._take("==", "!=", *ORDERS):
            negated, operator_ = sign.text == "!=", sign.text
            values = [self._value()]
        else:
            close = f", not {sign.text}" if sign.text else ""
            self._refuse(f"after {name.text} comes ==, !=, <, <=, >, >=, in or not in{close}", sign)
        text = self._source[name.start : self._tokens[self._next - 1].end]
        tests = []
        for token, value in values:
            try:
                tests.append(test_of(name.text, field, operator_, value))
            except ValueError as error:
                self._refuse(str(error), token)
        return _Comparison(name.text, field.several, _any_of(tests), negated, text)

    def _list(self) -> list[tuple[_Token, Any]]:
        opening = self._peek()
        if not self._take("["):
            self._refuse('in is followed by a list, such as ["CT", "PT"]', opening)
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        if not self._take("]"):
            self._refuse(f"the list at character {opening.start + 1} is not closed: write ]", self._peek())
        if len(values) > MAX_VALUES:
            self._refuse(f"a list has at most {MAX_VALUES} values", opening)
        return values

    def _value(self) -> tuple[_Token, Any]:
        token = self._peek()
        self._next += token.kind != "end"
        if token.kind == "text":
            return token, token.text[1:-1]
        if token.kind == "number":
            return token, float(token.text)
        if token.text == "null":
            return token, None
        shown = f', not {token.text}; write text in quotes, as "{token.text}"' if token.kind == "word" else ""
        self._refuse(f"a value is expected{shown}", token)


def _unknown(name: str, fields: Fields) -> str:
    keywords = {
        _letters(field.meaning.partition("(")[0]): name
        for name, field in FIELDS.items()
        if re.search(r" \(00", field.meaning)
    }
    known = keywords.get(_letters(name[:64]))  # "bodypartexamined", by the standard, is `body_part`
    meant = f', did you mean "{known}"?' if known in fields else nearest(name[:64], fields, HELP)
    return f'unknown field "{name[:64]}"{meant}'


def _letters(name: str) -> str:
    return re.sub(r"'s\b|[^a-z]", "", name.lower())


def _of_table(name: str, value: Any, fields: Fields) -> _Condition:
    """Return the condition of one entry of a table."""
    if name not in fields:
        raise WrongSelector(_unknown(name, fields))
    field = fields[name]
    several = value if isinstance(value, list | tuple) else [value]
    if not 0 < len(several) <= MAX_VALUES:
        raise WrongSelector(f"{name}: a list has 1 to {MAX_VALUES} values")
    try:
        if len(several) == 1:
            operator_, wanted = _operator_and_value(several[0], field)
            tests = [test_of(name, field, operator_, wanted)]
        else:
            operator_, tests = "in", [test_of(name, field, "in", _plain(item)) for item in several]
    except ValueError as error:
        raise WrongSelector(f"{name}: {error}") from error
    shown = _shown(value if len(several) > 1 else wanted)
    return _Comparison(name, field.several, _any_of(tests), operator_ == "!=", f"{name} {operator_} {shown}")


def _operator_and_value(value: Any, field: Field) -> tuple[str, Any]:
    """Return operator and value of an entry such as ``">=50"``."""
    value = _plain(value)
    if not isinstance(value, str):
        return "==", value
    match = _OF_TABLE.fullmatch(value)
    assert match is not None
    if match[1] is None:
        return "==", value
    if field.type != "number":
        return match[1], match[2]
    try:
        return match[1], float(match[2])
    except ValueError:
        raise ValueError(f"{match[2]!r} after {match[1]} is not a number") from None


def _plain(value: Any) -> Any:
    """Return a value of TOML as one of the language: text, number or missing."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | dt.date):
        raise ValueError(f"{value!r} is not a text, a number or a date")
    return value.isoformat() if isinstance(value, dt.date) else float(value) if isinstance(value, int) else value


def _any_of(tests: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    return tests[0] if len(tests) == 1 else lambda fact: any(test(fact) for test in tests)


def _shown(value: Any) -> str:
    """Return a fact, or the value of a table, as it would stand in an expression."""
    if value is None or value == []:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, int | float):
        return f"{value:g}" if value < 1e15 else str(value)
    return f'"{value.isoformat() if isinstance(value, dt.date) else value}"'
