"""Settings of a task: one frozen dataclass, filled from a TOML file and from flags; flags win.

The sentence under each field of the dataclass is its documentation and the help of its flag.
"""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sppnet.errors import UsageError

S = TypeVar("S")
MAX_BYTES = 1_000_000
_IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


def load_settings(kind: type[S], config: Path | None, flags: Mapping[str, object]) -> S:
    """Fill a settings class: defaults, then the TOML file, then the flags that were given.

    Args:
        kind: Frozen dataclass whose fields all have defaults.
        config: TOML file with fields as keys, or None.
        flags: Field name -> value; None stands for a flag that was not given.

    Returns:
        An instance of ``kind``.

    Raises:
        UsageError: If the file cannot be read, or a key is unknown or has a value of the wrong
            type; the message names the file, the key and the legal keys.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Settings:
        ...     iou: float = 0.5
        ...     classes: tuple[str, ...] = ()
        >>> load_settings(Settings, None, {"iou": 0.7, "classes": None})
        Settings(iou=0.7, classes=())
    """
    values = {} if config is None else _checked(kind, config, _read_toml(config))
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        return kind(**values)
    except ValueError as problem:  # the rules of the class itself
        raise UsageError(str(problem), path=config) from problem


def field_sentences(kind: type) -> dict[str, str]:
    """Read the sentence under each field of a class.

    Args:
        kind: A class whose source is at hand.

    Returns:
        Field name -> sentence; fields without one are left out.

    Raises:
        OSError: If the source is not at hand.
    """
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    lines = body.body if isinstance(body, ast.ClassDef) else []
    return {
        field.target.id: " ".join(under.value.value.split())
        for field, under in itertools.pairwise(lines)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(under, ast.Expr)
        and isinstance(under.value, ast.Constant)
        and isinstance(under.value.value, str)
    }


def _read_toml(path: Path) -> dict[str, Any]:
    """Read a small TOML file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"a settings file must be under {MAX_BYTES} bytes", path=path)
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UsageError(problem.strerror or str(problem), path=path) from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise UsageError(f"not TOML: {problem}", path=path) from problem


def _checked(kind: type, path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check keys and types of a settings file against the fields of the class."""
    hints = get_type_hints(kind)
    legal = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in legal:
            raise UsageError(f"unknown key {key!r}; legal keys are {', '.join(legal)}", path=path)
    return {key: _fit_key(path, key, value, hints[key]) for key, value in values.items()}


def _fit_key(path: Path, key: str, value: object, hint: Any) -> Any:
    """Turn one value into its field's type."""
    try:
        return _fit(value, hint)
    except TypeError as problem:
        raise UsageError(f"{key} must be {problem}, got {value!r}", path=path) from problem


def _fits(value: object, hint: Any) -> bool:
    try:
        _fit(value, hint)
    except TypeError:
        return False
    return True


def _fit(value: Any, hint: Any) -> Any:
    """Turn a TOML value into a field's type, or raise a TypeError that says what is wanted."""
    if get_origin(hint) in (Union, types.UnionType):
        choices = [choice for choice in get_args(hint) if choice is not type(None)]
        hint = next((choice for choice in choices if _fits(value, choice)), choices[0])
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise TypeError("a list")
        return tuple(_fit(item, get_args(hint)[0]) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if hint is Path and type(value) is str:
        return Path(value)
    if type(value) is not hint:  # also keeps true from passing as the number 1
        raise TypeError(_IN_WORDS.get(hint, str(hint)))
    return value
