"""How a setting is written: its type, its rule, its default, and a sentence under it.

    batch: Annotated[int, Within(1)] = 32
    '''Images in one update.'''

The class refuses a value that breaks its rule (`check_fields`). The command line makes a flag of
the field: its help is the sentence, and it tells the same rule. What was saved as JSON is made
again by `restore_fields`, which also checks the types.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from math import inf
from types import NoneType, UnionType
from typing import Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

LARGEST = 10**9  # of whole numbers that count something
EXACT = 2**53  # whole numbers up to here are floats, too
T = TypeVar("T")


class Rule(Protocol):
    """Tells legal values from others; as text it is what follows "must be"."""

    def accepts(self, value: Any) -> bool:
        """Tell whether a value is legal."""
        ...


@dataclass(frozen=True)
class Within:
    """A finite number in a range.

    Args:
        low: Least legal value.
        high: Greatest legal value.
        above: Whether ``low`` itself is not legal.
        below: Whether ``high`` itself is not legal.

    Example:
        >>> rule = Within(0, 1, below=True)
        >>> rule.accepts(0.5), rule.accepts(1), rule.accepts(float("nan"))
        (True, False, False)
        >>> str(rule), rule.signs
        ('at least 0 and below 1', '0<=x<1')
    """

    low: float = -inf
    high: float = inf
    above: bool = False
    below: bool = False

    def accepts(self, value: float) -> bool:
        """Tell whether a number is finite and in the range."""
        high_enough = value > self.low if self.above else value >= self.low
        low_enough = value < self.high if self.below else value <= self.high
        return high_enough and low_enough and abs(value) < inf

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:.10g}"
        high = f"{'below' if self.below else 'at most'} {self.high:.10g}"
        bounds = [low] * (self.low > -inf) + [high] * (self.high not in (inf, LARGEST))
        return " and ".join(bounds) or "a finite number"

    @property
    def signs(self) -> str:
        """The range in signs, as help texts have it; empty if every number will do."""
        low = f"{self.low:.10g}<{'' if self.above else '='}x" if self.low > -inf else "x"
        high = f"<{'' if self.below else '='}{self.high:.10g}"
        if self.high not in (inf, LARGEST):
            return f"{low}{high}"
        return f"x>{'' if self.above else '='}{self.low:.10g}" if self.low > -inf else ""


@dataclass(frozen=True)
class OneOf:
    """One of a few words.

    Args:
        words: The legal ones.

    Example:
        >>> str(OneOf(("hard", "soft")))
        'one of hard, soft'
    """

    words: tuple[str, ...]

    def accepts(self, value: str) -> bool:
        """Tell whether a word is among the legal ones."""
        return value in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(filter(None, self.words))}"


@dataclass(frozen=True)
class Each:
    """Several numbers that all keep one rule.

    Args:
        rule: Rule of each number.
        least: Fewest numbers.
        most: Most numbers; None for any count.

    Example:
        >>> rule = Each(Within(1), least=1)
        >>> rule.accepts((1, 2)), rule.accepts(()), str(rule)
        (True, False, '1 or more numbers, each at least 1')
    """

    rule: Within
    least: int = 0
    most: int | None = None

    def accepts(self, value: tuple[float, ...]) -> bool:
        """Tell whether the count is legal, and every number."""
        few_enough = self.most is None or len(value) <= self.most
        return few_enough and len(value) >= self.least and all(map(self.rule.accepts, value))

    def __str__(self) -> str:
        if self.most is not None and self.least < self.most:
            return f"{self.least} to {self.most} numbers, each {self.rule}"
        count = {self.most: f"{self.most} ", 0: ""}.get(self.least, f"{self.least} or more ")
        return f"{count}numbers, each {self.rule}"


@dataclass(frozen=True)
class Flag:
    """How the help shows the flag of a field.

    Args:
        metavar: What stands for the value; empty to let the type and the rule say it.
        group: Heading over this field and those that follow, up to the next heading.
    """

    metavar: str = ""
    group: str = ""


Count = Annotated[int, Within(1, LARGEST)]
CountOrNone = Annotated[int, Within(0, LARGEST)]
Positive = Annotated[float, Within(0, above=True)]
Share = Annotated[float, Within(0, 1, below=True)]
Levels = Annotated[tuple[int, ...], Each(Within(1, LARGEST), least=1), Flag("N,N,...")]
ENGINES = ("auto", "onnxruntime", "torch")  # that convolve by a frozen trunk on a CPU
Engine = Annotated[str, OneOf(ENGINES)]
Seed = Annotated[int, Within(0, 2**32 - 1), Flag(group="Options")]


def metadata(kind: type, *wanted: type) -> dict[str, Any]:
    """Find what stands beside the types of a class's fields.

    Args:
        kind: A class with annotated fields.
        wanted: Classes of the metadata, such as `Flag`.

    Returns:
        Name of the field -> the last such metadata; fields without one are left out.

    Example:
        >>> @dataclass(frozen=True)
        ... class Baking:
        ...     minutes: Count = 25
        >>> metadata(Baking, Within)["minutes"].low
        1
    """
    hints = get_type_hints(kind, include_extras=True)
    beside = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    found = {name: [x for x in each if isinstance(x, wanted)] for name, each in beside.items()}
    return {name: each[-1] for name, each in found.items() if each}


@cache
def rules_of(kind: type) -> Mapping[str, Rule]:
    """Find the rules of a class's fields, in their order.

    Args:
        kind: A class with annotated fields.

    Returns:
        Name of the field -> its rule; fields that take anything of their type are left out.
    """
    return metadata(kind, Within, OneOf, Each)


def check_fields(config: object) -> None:
    """Refuse the first value that breaks the rule of its field.

    Args:
        config: An instance of a class of settings.

    Raises:
        TypeError: If the rule cannot be asked about such a value; names the same.
        ValueError: Names the field, the rule and the value.
    """
    kind: type = type(config)
    for name in rules_of(kind):
        check_field(kind, name, getattr(config, name))


def check_field(kind: type, name: str, value: Any) -> None:
    """Refuse a value that breaks the rule of a field.

    Args:
        kind: A class of settings.
        name: One of its fields.
        value: Of the field's type.

    Raises:
        TypeError: If the rule cannot be asked about such a value; names the same.
        ValueError: Names the field, the rule and the value.

    Example:
        >>> @dataclass(frozen=True)
        ... class Baking:
        ...     minutes: Count = 25
        >>> check_field(Baking, "minutes", 0)
        Traceback (most recent call last):
        ValueError: minutes must be at least 1, got 0
    """
    rule = rules_of(kind).get(name)
    if rule is None:
        return
    try:
        is_legal = rule.accepts(value)
    except TypeError:
        few = isinstance(rule, Each) and isinstance(value, int | float)
        such = f", such as ({value},)" if few else ""
        raise TypeError(f"{name} must be {rule}{such}, got {value!r}") from None
    if not is_legal:
        raise ValueError(f"{name} must be {rule}, got {value!r}")


def restore_fields(kind: type[T], values: Any, name: str = "") -> T:
    """Make an instance of a class from the JSON values that it was saved as.

    Nothing is guessed or turned into another type; but a whole number will do for a float, and
    lists become tuples where the class has tuples.

    Args:
        kind: A dataclass; its fields are of the types that JSON has, tuples, or such classes.
        values: What should be an object with the fields; those with a default may be missing.
        name: What to call it in errors.

    Returns:
        The instance, every field of its type and within its rule.

    Raises:
        TypeError: If it is no object.
        ValueError: If a field is missing or unknown, or its value is of another type or breaks its
            rule; the message names the field.

    Example:
        >>> @dataclass(frozen=True)
        ... class Baking:
        ...     minutes: Count = 25
        >>> restore_fields(Baking, {"minutes": 30}, "baking").minutes
        30
        >>> restore_fields(Baking, {"minutes": "30"}, "baking")
        Traceback (most recent call last):
        ValueError: baking.minutes must be a whole number, got '30'
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{name or 'it'} must be an object, got {_short(values)}")
    prefix = f"{name}." if name else ""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ValueError(
                f"{prefix}{_short(key, plain=True)} is no field of a {name or 'model'}"
            )
    for key, field in known.items():
        if key not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{key} is missing")
    hints, rules = get_type_hints(kind), rules_of(kind)  # type: ignore[arg-type]
    restored = {key: _typed(hints[key], value, prefix + key) for key, value in values.items()}
    for key, value in restored.items():
        if key in rules and value is not None and not rules[key].accepts(value):
            raise ValueError(f"{prefix}{key} must be {rules[key]}, got {_short(value)}")
    return kind(**restored)


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_WORDS |= {NoneType: "null", list: "a list", tuple: "a list", dict: "an object"}


def _typed(hint: Any, value: Any, name: str) -> Any:
    """Return a JSON value as the type that a field has."""
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        (hint,) = (part for part in parts if part is not NoneType)
        return _typed(hint, value, name)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return restore_fields(hint, value, name)  # type: ignore[arg-type]
    if not _is_of(origin, value):
        raise ValueError(f"{name} must be {_WORDS[origin]}, got {_short(value)}")
    if origin in (tuple, list):
        return origin(_typed_items(parts, value, name))
    return float(value) if origin is float and abs(value) > EXACT else value


def _is_of(kind: type, value: Any) -> bool:
    """Tell whether a JSON value is of a type; true and false are no numbers."""
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if kind is float:  # what no float can hold would not come back as it is
        return isinstance(value, int | float) and abs(value) < 1e300
    if kind is int:
        return isinstance(value, int) and abs(value) < 2**63
    return isinstance(value, list | tuple if kind in (list, tuple) else kind)


def _typed_items(parts: tuple[Any, ...], values: Any, name: str) -> list[Any]:
    """Return the items of a list as the types that a tuple or list has."""
    is_free = len(parts) == 1 or parts[-1] is Ellipsis
    if not is_free and len(values) != len(parts):
        raise ValueError(f"{name} must be {len(parts)} values, got {_short(values)}")
    hints = [parts[0]] * len(values) if is_free else parts
    return [
        _typed(hint, value, f"{name}[{place}]")
        for place, (hint, value) in enumerate(zip(hints, values, strict=True))
    ]


def _short(value: Any, *, plain: bool = False) -> str:
    """Write a value of any size in few characters."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, list | tuple | dict) and len(value) > 8:
        return f"{len(value)} values"
    text = value if plain and isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
