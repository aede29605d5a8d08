"""Settings of a task: a class of ``sppnet.config`` makes the flags of its command and is filled.

The name of a field is the flag's, the sentence under it the help, its rule the legal values. A
command takes the filled class as one parameter:

    @app.command()
    @with_settings(DetectionConfig)
    def train(data: DataFolder, settings: DetectionConfig) -> None: ...

Values come from the defaults, then the TOML file of ``--config``, then the flags; what is wrong is
said in the same line wherever it came from.
"""

import ast
import copy
import dataclasses
import functools
import inspect
import itertools
import textwrap
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from sppnet.app.options import ConfigFile, parse_numbers
from sppnet.config.fields import Flag, OneOf, Rule, Within, check_field, metadata, rules_of
from sppnet.errors import UsageError

S = TypeVar("S")
Command = Callable[..., Any]
Parameters = Mapping[str, inspect.Parameter]
MAX_BYTES = 1_000_000
_IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field of a settings class, as the command line sees it.

    Args:
        name: Of the field.
        hint: Its type.
        default: Its default.
        sentence: What stands under it.
        rule: Which values are legal; None if all of the type are.
        metavar: What stands for the value; empty to let type and rule say it.
        group: Heading in the help.
    """

    name: str
    hint: Any
    default: Any
    sentence: str
    rule: Rule | None
    metavar: str
    group: str

    def option(self, *, with_default: bool = True) -> inspect.Parameter:
        """Make the option; without a default, None stands for a flag that was not given."""
        word = self.name.replace("_", "-")
        names = f"--{word}/--no-{word}" if self.hint is bool else f"--{word}"
        info = typer.Option(
            names,
            help=self.sentence,
            metavar=self.shown_values(),
            rich_help_panel=self.group or None,
        )
        kind = self.hint if self.hint in (bool, int, float) else str
        if not with_default:
            return _parameter(self.name, Annotated[kind | None, info], None)
        return _parameter(self.name, Annotated[kind, info], self.text(self.default))

    def shown_values(self) -> str:
        """What the help shows in place of the value."""
        if self.metavar or self.hint is bool:
            return self.metavar
        if isinstance(self.rule, OneOf):
            return "|".join(self.rule.words)
        word = {int: "N", float: "X"}.get(self.hint, "TEXT")
        signs = self.rule.signs if isinstance(self.rule, Within) else ""
        return f"{word} [{signs}]" if signs else word

    def text(self, value: Any) -> Any:
        """The value as one types it; numbers and yes or no stay what they are."""
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        return value if self.hint in (bool, int, float) else str(value)

    def read(self, given: Any) -> Any:
        """Turn what was given into the field's type.

        Raises:
            UsageError: If it cannot be read.
        """
        if get_origin(self.hint) is tuple:
            return parse_numbers(self.name, given, least=0)
        kinds = get_args(self.hint) if get_origin(self.hint) in (Union, types.UnionType) else ()
        for kind in (int, float):  # of a field that takes a number or a word
            if kind in kinds and _is(kind, given):
                return kind(given)
        return given


def settings_of(kind: type) -> list[Setting]:
    """List the fields of a settings class with all that a flag needs.

    Args:
        kind: Frozen dataclass whose fields all have defaults.

    Returns:
        In the order of the class. A group holds until the next one begins.

    Example:
        >>> from sppnet.config.detection import DetectionConfig
        >>> first = settings_of(DetectionConfig)[0]
        >>> first.name, first.group, first.sentence
        ('backbone', 'Trunk', 'Convolution trunk, by name.')
    """
    hints, sentences = get_type_hints(kind), field_sentences(kind)
    rules, flags = rules_of(kind), metadata(kind, Flag)
    settings, group = [], ""
    for field in dataclasses.fields(kind):
        flag = flags.get(field.name, Flag())
        group = flag.group or group
        settings.append(
            Setting(
                field.name,
                hints[field.name],
                field.default,
                sentences.get(field.name, ""),
                rules.get(field.name),
                flag.metavar,
                group,
            )
        )
    return settings


def with_settings(kind: type[Any], name: str = "settings") -> Callable[[Command], Command]:
    """Put a flag for each field, and ``--config``, in place of one parameter of a command.

    Args:
        kind: The settings class.
        name: Of the parameter; it is given the filled class.

    Returns:
        A decorator; it stands below typer's own.
    """
    settings = settings_of(kind)
    options = [_parameter("config", ConfigFile, None), *(each.option() for each in settings)]

    def fill(values: Mapping[str, Any], given: set[str]) -> object:
        flags = {
            each.name: each.read(values[each.name]) if each.name in given else None
            for each in settings
        }
        return load_settings(kind, values["config"], flags)

    return lambda command: _replace(command, name, options, fill)


def with_overrides(
    kind: type[Any], name: str, without: Sequence[str] = ()
) -> Callable[[Command], Command]:
    """Put flags for fields that something saved has already in place of one parameter.

    Args:
        kind: The settings class.
        name: Of the parameter; it is given a mapping of the fields that were given.
        without: Fields that have no flag here.

    Returns:
        A decorator; it stands below typer's own.
    """
    settings = [each for each in settings_of(kind) if each.name not in without]
    options = [each.option(with_default=False) for each in settings]

    def fill(values: Mapping[str, Any], given: set[str]) -> dict[str, object]:
        found = {each.name: each.read(values[each.name]) for each in settings if each.name in given}
        _check_flags(kind, found)
        return found

    return lambda command: _replace(command, name, options, fill)


def with_group(kind: type[Any], name: str, heading: str = "") -> Callable[[Command], Command]:
    """Put the fields of a dataclass, each ``Annotated`` with its typer option, in place of one.

    Args:
        kind: The dataclass.
        name: Of the parameter; it is given the filled dataclass.
        heading: Over the options in the help; empty to leave them among the others.

    Returns:
        A decorator; it stands below typer's own.
    """
    hints = get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    options = [
        _parameter(field.name, _under(heading, hints[field.name]), field.default)
        for field in fields
    ]
    return lambda command: _replace(command, name, options, lambda values, _: kind(**values))


def _under(heading: str, hint: Any) -> Any:
    """Put an option under a heading of the help."""
    kind, option = get_args(hint)
    option = copy.copy(option)
    option.rich_help_panel = heading or None
    return Annotated[kind, option]


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)


def _replace(
    command: Command,
    name: str,
    options: Sequence[inspect.Parameter],
    fill: Callable[[Mapping[str, Any], set[str]], object],
) -> Command:
    """Give a command options in place of one parameter, which is filled from their values."""
    own = inspect.signature(command).parameters

    @functools.wraps(command)
    def filled(context: typer.Context, **values: Any) -> Any:
        mine = {option.name: values.pop(option.name) for option in options}
        given = {each for each in mine if _was_given(context, each)}
        if "context" in own:
            values["context"] = context
        return command(**values, **{name: fill(mine, given)})

    parameters = [_parameter("context", typer.Context, inspect.Parameter.empty)]
    for each in own.values():
        if each.name == name:
            parameters += options
        elif each.name != "context":
            parameters.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    filled.__doc__ = "\n\n".join(" ".join(each.split()) for each in paragraphs)  # typer wraps them
    filled.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    filled.__annotations__ = {each.name: each.annotation for each in parameters}
    return filled


def _was_given(context: typer.Context, name: str) -> bool:
    """Tell whether an option was on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def load_settings(kind: type[S], config: Path | None, flags: Mapping[str, object]) -> S:
    """Fill a settings class: defaults, then the TOML file, then the flags that were given.

    Args:
        kind: Frozen dataclass whose fields all have defaults.
        config: TOML file with fields as keys, or None.
        flags: Field name -> value; None stands for a flag that was not given.

    Returns:
        An instance of ``kind``.

    Raises:
        UsageError: If the file cannot be read, a key is unknown or has a value of the wrong type,
            or a value breaks its rule; the message names the file if it is the file's, the key and
            what is legal.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Settings:
        ...     iou: float = 0.5
        ...     classes: tuple[str, ...] = ()
        >>> load_settings(Settings, None, {"iou": 0.7, "classes": None})
        Settings(iou=0.7, classes=())
    """
    given = {name: value for name, value in flags.items() if value is not None}
    _check_flags(kind, given)
    values = {} if config is None else _checked(kind, config, _read_toml(config))
    try:
        return kind(**{**values, **given})
    except ValueError as problem:  # the rules of the class itself
        raise UsageError(str(problem), path=config) from problem


def _check_flags(kind: type, given: Mapping[str, object]) -> None:
    """Refuse flags by themselves, so that a settings file is not blamed for them."""
    for name, value in given.items():
        try:
            check_field(kind, name, value)
        except ValueError as problem:
            raise UsageError(str(problem)) from problem


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


def _is(kind: type, value: Any) -> bool:
    """Tell whether a value can be read as a number of a type."""
    try:
        kind(value)
    except (ValueError, OverflowError):
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
    if hint is float and type(value) is int and _is(float, value):
        return float(value)
    if hint is Path and type(value) is str:
        return Path(value)
    if type(value) is not hint:  # also keeps true from passing as the number 1
        raise TypeError(_IN_WORDS.get(hint, str(hint)))
    return value
