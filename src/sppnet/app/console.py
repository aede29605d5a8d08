"""What the command line says: results on stdout, one line per failure on stderr, and exit codes.

Results go to stdout (`say`), everything about the run to stderr (`note`, `warn`, `error`). A reader
that goes away (``sppnet info | head -1``) stops nothing: what is left to say is dropped.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import typer

from sppnet.errors import (
    NothingUsableError,
    Problem,
    SppnetError,
    UsageError,
    count_of,
    printable,
    shorten,
)

if TYPE_CHECKING:
    from sppnet.images.listing import Listing
    from sppnet.storage import FeatureCache, RunFolder

DONE, BUG, WRONG_USAGE, SOME_FAILED, NOTHING_USABLE, UNUSABLE_FILE, NO_OUTPUT = range(7)
RED, YELLOW = 31, 33
CACHE_WORTH_A_WORD = 1_000_000  # bytes
MOST_LINE = 3800  # bytes of a line on stderr, four a letter at most
NEXT_RUN = "the next run takes what it needs from"


def say(text: str = "") -> None:
    """Print a result to stdout as one line; control characters, such as in names, are escaped.

    Example:
        >>> say("2 images, 3 boxes")
        2 images, 3 boxes
    """
    _write(sys.stdout, printable(text))


@contextmanager
def in_silence(wanted: bool) -> Iterator[None]:
    """Drop what is printed, if wanted; errors that end the process are printed outside.

    Args:
        wanted: False prints as ever; of several processes the first one speaks for all.

    Example:
        >>> with in_silence(True):
        ...     say("2 images, 3 boxes")
    """
    if not wanted:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def note(text: str) -> None:
    """Print a line about the run to stderr."""
    _write(sys.stderr, f"sppnet: {_one_line(text)}")


def warn(what: object) -> None:
    """Print a line about something that was survived to stderr."""
    _write(sys.stderr, f"sppnet: {_coloured('warning', YELLOW)}: {_one_line(what)}")


def error(what: SppnetError | Problem | str) -> None:
    """Print the line of a failure to stderr: ``sppnet: error: 'path': what is wrong (CODE)``."""
    _write(sys.stderr, f"sppnet: {_coloured('error', RED)}: {_one_line(what)}")


def _one_line(what: object) -> str:
    """A line that a log can hold: nothing of it ends or colours a line, at most 4 kB."""
    text = printable(str(what))
    return text if len(text.encode()) <= MOST_LINE else shorten(text, MOST_LINE // 4)


def say_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under a header in aligned columns; numbers stand right.

    Args:
        header: Names of the columns.
        rows: Cells; each row as long as the header.

    Example:
        >>> say_table(["class", "AP"], [["cat", 0.5], ["raccoon", 0.75]])
        class      AP
        cat       0.5
        raccoon  0.75
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    columns = list(zip(header, *cells, strict=True))
    right = [all(map(_is_number, column[1:])) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    for row in [list(header), *cells]:
        parts = zip(row, widths, right, strict=True)
        say("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in parts).rstrip())


def human_seconds(seconds: float) -> str:
    """Say an estimated time as a person would, without digits that nobody can know.

    Times that were measured are written on pages by ``seconds_text`` of ``evaluation.report``.

    Example:
        >>> [human_seconds(s) for s in (0.42, 20, 150, 8000)]
        ['0.4 s', '20 s', '2 min 30 s', '2 h 13 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def human_bytes(count: float) -> str:
    """Say a size in powers of 1000.

    Example:
        >>> [human_bytes(n) for n in (12, 3_400_000, 2_500_000_000)]
        ['12 B', '3.4 MB', '2.5 GB']
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def debug_wanted() -> bool:
    """Tell whether ``--debug`` or SPPNET_DEBUG=1 asks for tracebacks."""
    return os.environ.get("SPPNET_DEBUG", "") not in ("", "0")


@dataclass
class Tally:
    """Counts what became of every input, so that none is lost, and ends a command with its code.

    Args:
        listed: How many inputs there are.

    Example:
        >>> tally = Tally(listed=2)
        >>> tally.add_ok()
        >>> tally.add_ok()
        >>> tally.exit_code()
        0
    """

    listed: int
    ok: int = 0
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, listing: "Listing") -> "Tally":
        """Begin with what was listed: say what was left out, count what gives nothing."""
        if listing.own_words:
            note(listing.own_words)
        tally = cls(listed=len(listing.paths) + len(listing.problems))
        for problem in listing.problems:
            tally.add_failed(problem)
        return tally

    @property
    def failed(self) -> int:
        """Number of inputs that failed."""
        return len(self.problems)

    def add_ok(self, count: int = 1) -> None:
        """Count inputs that gave a result."""
        self.ok += count

    def add_failed(self, problem: SppnetError | Problem) -> None:
        """Print the error line of one input and count it."""
        error(problem)
        self.problems.append(problem if isinstance(problem, Problem) else Problem.of(problem))

    def exit_code(self) -> int:
        """Give 0, 3 (some failed) or 4 (all failed, or there were none).

        Raises:
            RuntimeError: If an input was not counted, or twice.
        """
        if self.ok + self.failed != self.listed:
            raise RuntimeError(f"ok + failed must be listed, got {self}")
        if self.ok == 0:
            return NOTHING_USABLE
        return SOME_FAILED if self.failed else DONE

    def finish(self) -> NoReturn:
        """End the command: one line with the counts if something failed, then the exit code."""
        code = self.exit_code()
        if code == NOTHING_USABLE:
            if self.listed == 1:
                raise NothingUsableError("the one input could not be used")
            raise NothingUsableError(f"none of {self.listed:,} inputs could be used")
        if code == SOME_FAILED:
            note(f"{self.ok} of {count_of(self.listed, 'input')} done, {self.failed} failed")
        raise typer.Exit(code)


def report_problems(problems: Sequence[Problem], most: int = 50) -> int:
    """Print an error line for each finding about a data set, and give the exit code to end with.

    Args:
        problems: Findings, as ``DetectionDataset.problems`` and ``Listing.problems`` hold them.
        most: Lines to print at most; the rest is counted in one line.

    Returns:
        0 without problems, 3 with some.

    Example:
        >>> report_problems([])
        0
    """
    for problem in problems[:most]:
        error(problem)
    if len(problems) > most:
        note(
            f"{count_of(len(problems) - most, 'more problem')}; `sppnet check DATA` lists them all"
        )
    return SOME_FAILED if problems else DONE


def report_data_changes(run: "RunFolder") -> None:
    """Say what changed in the data since a run began, and what comes of it."""
    changes = run.data_changes
    for change in changes.learnt:
        warn(f"the data changed since the run began: {change}")
    if changes.learnt:
        note("what was learnt before is not used: training again")
    for change in changes.scored:
        warn(f"the images to score on changed since the run began: {change}")


def warn_of_space(folder: Path, planned: float, instead: str) -> None:
    """Say before the work that a disk has less room than the work is going to take.

    Args:
        folder: Where it will write; it need not be there yet.
        planned: Bytes that it will write.
        instead: What the user can do about it.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if planned > free:
        need = f"the work will write about {human_bytes(planned)} to {folder}"
        warn(f"{need}, where {human_bytes(free)} are free; {instead}")


@contextmanager
def cache_of_run(
    folder: Path, *, keep: bool = True, flag: str = "", most_bytes: int | None = None
) -> "Iterator[FeatureCache]":
    """Open what a run keeps of each image; drop it at the end, or say how large it is.

    A run that fails or is stopped leaves all of it, so that the same command goes on from there.

    Args:
        folder: Where it is.
        keep: Whether it stays after a success.
        flag: Option of the command that keeps it, to be named where it is dropped.
        most_bytes: The most that it may take; None for no limit.
    """
    from sppnet.storage import FeatureCache  # here, so that --help stays quick

    cache = FeatureCache(folder, most_bytes)
    try:
        yield cache
    except BaseException:
        _tell_cache(folder, "the same command goes on from")
        raise
    if keep:
        _tell_cache(folder, NEXT_RUN)
        return
    size = cache.num_bytes()
    cache.remove()
    if size >= CACHE_WORTH_A_WORD:
        hint = f" ({flag})" if flag else ""
        note(f"removed {human_bytes(size)} of maps and the like from {folder}{hint}")


@contextmanager
def tells_cache(folder: Path, use: str = NEXT_RUN) -> Iterator[None]:
    """Say at the end, however it comes, how large the caches in a folder are.

    Args:
        folder: Where they are.
        use: What for they stay.
    """
    try:
        yield
    finally:
        _tell_cache(folder, use)


def _tell_cache(folder: Path, use: str) -> None:
    """Say how large the caches in a folder are, if that is worth a word."""
    size = sum(path.stat().st_size for path in folder.rglob("*.record"))
    if size >= CACHE_WORTH_A_WORD:
        note(f"{folder} holds {human_bytes(size)}, which {use}; it may be deleted")


@contextmanager
def options_to_blame() -> Iterator[None]:
    """Turn ValueError and TypeError of a room into a usage error: for calls made of options only.

    Raises:
        UsageError: With the same text (exit code 2).

    Example:
        >>> with options_to_blame():
        ...     raise ValueError("levels must be positive, got 0")
        Traceback (most recent call last):
        sppnet.errors.UsageError: levels must be positive, got 0 (E_USAGE)
    """
    try:
        yield
    except (ValueError, TypeError) as problem:
        raise UsageError(str(problem)) from problem


def wants_colour(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal that shows colour; NO_COLOR (any value) says no."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def _coloured(word: str, colour: int) -> str:
    if sys.stderr is not None and wants_colour(sys.stderr):
        return f"\x1b[{colour}m{word}\x1b[0m"
    return word


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace("%", "").strip().isdigit()


def _write(stream: TextIO | None, text: str) -> None:
    """Write a line; a closed pipe silences the stream for good instead of stopping the run."""
    if stream is None:  # started with >&-
        return
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Send the rest of a stream to nowhere, so that the flush at exit cannot fail either."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
