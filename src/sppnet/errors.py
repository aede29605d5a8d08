"""What can go wrong with files, said in one line each, and the exit code that goes with it.

Mistakes of a caller in Python are plain ``ValueError`` and ``TypeError``; the classes here are for
what a user's files, options and disks do. Every one prints as one line that names the file and the
rule.
"""

import errno
import os
import secrets
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MOST_LETTERS = 1000  # of a message, which may quote names and values out of a hostile file
# How memory runs out: in torch on the CPU, in oneDNN, on the graphics card, in C++, in onnxruntime
# and in OpenCV.
_MEMORY_WORDS = (
    "not enough memory",
    "out of memory",
    "could not create a primitive",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "bad allocation",
    "unable to allocate",
    "failed to allocate",
    "insufficient memory",
)
_NATIVE = ("cv2", "onnxruntime")  # their errors have classes of their own
BOX_LEFT_OUT = "box left out"
IMAGE_LEFT_OUT = "image left out"


class SppnetError(Exception):
    """A failure that a user can act on: one line, a code from a closed list, an exit code.

    Args:
        message: What is wrong and which rule it breaks; one sentence, no final stop.
        path: The file or folder that it is about.
        code: Short name for programs, such as ``"E_TRUNCATED"``.

    Example:
        >>> print(InputError("the file is empty", path="a.jpg", code="E_EMPTY"))
        'a.jpg': the file is empty (E_EMPTY)
    """

    exit_code = 1
    default_code = "E_BUG"

    def __init__(
        self, message: str, *, path: str | Path | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.code = code or self.default_code

    def __str__(self) -> str:
        return f"{quote_path(self.path)}{printable(shorten(self.message))} ({self.code})"


class UsageError(SppnetError):
    """An option or argument that cannot be meant (exit code 2)."""

    exit_code = 2
    default_code = "E_USAGE"


class MissingPackageError(UsageError):
    """An optional package that this feature needs; the message names the install command."""

    default_code = "E_PACKAGE"


class InputError(SppnetError):
    """One image or annotation that cannot be used; the rest of the batch goes on (exit code 3)."""

    exit_code = 3
    default_code = "E_INPUT"


class NothingUsableError(SppnetError):
    """No input is left to work on (exit code 4)."""

    exit_code = 4
    default_code = "E_NOTHING"


class UnusableFileError(SppnetError):
    """A model, weights, cache or annotation file that the whole run depends on (exit code 5)."""

    exit_code = 5
    default_code = "E_UNUSABLE"


class OutputError(SppnetError):
    """A result that cannot be written (exit code 6)."""

    exit_code = 6
    default_code = "E_OUTPUT"


@dataclass(frozen=True)
class Problem:
    """One finding about one input file, for a report; nothing is raised and the rest goes on."""

    path: str
    rule: str
    code: str
    line: int | None = None
    action: str = ""

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        action = f"; {self.action}" if self.action else ""
        return (
            f"{quote_path(self.path)}{place}{printable(shorten(self.rule))}{action} ({self.code})"
        )

    @classmethod
    def of(cls, error: SppnetError, action: str = "") -> "Problem":
        """Turn a caught error into a finding."""
        return cls(str(error.path or ""), error.message, error.code, action=action)


def failure_text(error: Exception) -> str:
    """Say in one line why something failed, without the file's path or what a bug says.

    Example:
        >>> failure_text(InputError("the file is empty", path="a.jpg"))
        'the file is empty'
        >>> failure_text(KeyError("x"))
        'a bug: KeyError'
    """
    if isinstance(error, SppnetError):
        return printable(shorten(error.message))
    return f"a bug: {type(error).__name__}"


def note_bug(what: str, error: Exception, number: str = "") -> str:
    """Write the line of a bug that a server survives to stderr; with SPPNET_DEBUG, where it is.

    Args:
        what: What met it, such as ``"a request"``.
        error: What was raised.
        number: That whoever asked is told, so that the line can be found; a new one if empty.

    Returns:
        The number, 8 hexadecimal digits.
    """
    number = number or secrets.token_hex(4)
    words, hint = f"{what} met {failure_text(error)}", "--debug shows where"
    with suppress(AttributeError, OSError, ValueError):  # nobody listens
        if os.environ.get("SPPNET_DEBUG", "") not in ("", "0"):
            hint = "it is this one"
            traceback.print_exception(error)
        sys.stderr.write(f"sppnet: warning: [{number}] {words}; {hint}\n")
        sys.stderr.flush()
    return number


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether something failed because memory ran out, whichever library says so.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(KeyError("memory"))
        (True, False)
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    library = type(error).__module__.partition(".")[0]
    words = str(error).lower() if isinstance(error, RuntimeError) or library in _NATIVE else ""
    return any(each in words for each in _MEMORY_WORDS)


class Findings:
    """Collects what the readers find: problems (left out) and notes (used nevertheless)."""

    def __init__(self, problems: Iterable[Problem] = (), notes: Iterable[Problem] = ()) -> None:
        self.problems: list[Problem] = list(problems)
        self.notes: list[Problem] = list(notes)

    def leave_out(
        self,
        path: str | Path,
        rule: str,
        code: str,
        *,
        line: int | None = None,
        action: str = IMAGE_LEFT_OUT,
    ) -> None:
        """Record something that training and scoring will not see."""
        self.problems.append(Problem(str(path), rule, code, line, action))

    def note(self, path: str | Path, rule: str, *, line: int | None = None, action: str) -> None:
        """Record something that was used although it was not quite right."""
        self.notes.append(Problem(str(path), rule, "W_DATA", line, action))


def count_of(number: int, noun: str, many: str = "") -> str:
    """Write a number with its noun, one or many.

    Args:
        number: How many.
        noun: The word for one.
        many: The word for several; made of the noun if not given.

    Example:
        >>> [count_of(n, noun) for n, noun in ((1, "class"), (0, "box"), (1200, "photo"))]
        ['1 class', '0 boxes', '1,200 photos']
        >>> [count_of(2, noun) for noun in ("batch", "epoch")]
        ['2 batches', '2 epochs']
    """
    hisses = noun.endswith(("s", "x", "ch", "sh")) and noun != "epoch"
    ending = "es" if hisses else "s"
    return f"{number:,} {noun if number == 1 else many or noun + ending}"


def as_path(value: object, name: str) -> Path:
    """Make a path of what a caller gave for an argument.

    Args:
        value: A text or a path.
        name: Of the argument, for the message.

    Raises:
        TypeError: If it is anything else.

    Example:
        >>> as_path(5, "folder")
        Traceback (most recent call last):
        TypeError: folder must be a path, got 5
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {shorten(repr(value))}")
    return Path(value)


def quote_path(path: str | Path | None) -> str:
    r"""Put a path in quotes before a message; control bytes cannot reach the terminal.

    Example:
        >>> quote_path("a\nb.jpg")
        "'a\\nb.jpg': "
    """
    return f"{str(path)!r}: " if path else ""


def shorten(text: str, most: int = MOST_LETTERS) -> str:
    """Cut the middle out of a message that quotes more than anybody reads.

    Example:
        >>> len(shorten("x" * 100_000)) < 1100
        True
    """
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} ... {len(text) - 2 * half} letters left out ... {text[-half:]}"


def printable(text: str) -> str:
    r"""Escape control and non-UTF-8 characters, so that one message stays one harmless line.

    Example:
        >>> printable("red\x1b[31m")
        'red\\x1b[31m'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
