"""The command ``sppnet``: runs a command's module, turns every ending into a line and a code.

Exit codes: 0 done, 1 a bug, 2 wrong usage, 3 finished but some inputs failed, 4 nothing usable,
5 a model or annotation file is unusable, 6 output cannot be written, or memory or threads do not
suffice, 130 and 143 stopped by SIGINT and SIGTERM. A command's module is imported when it is
called, and imports torch inside its functions, so that ``--help`` is quick.

The first signal raises KeyboardInterrupt in the main thread, so that ``with`` and ``finally``
blocks save what is finished; the exit code is 128 + the signal (130, 143). A signal that comes when
all is done, while Python tidies up, changes nothing.
"""

import atexit
import errno
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO, cast

import typer
from typer.core import TyperGroup

from sppnet import __version__
from sppnet.app import console
from sppnet.app.options import HELP_SETTINGS
from sppnet.errors import OutputError, SppnetError, UsageError, is_out_of_memory

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
COMMANDS = {
    "detect": "Find things: train a detector on your photos, score it, use it.",
    "classify": "Name images of any size: fit or train a classifier, score it, use it.",
    "embed": "Turn photos, or regions of them, into vectors; on one machine or on many.",
    "label": "Label photos in a page on this machine; a model learns from each label.",
    "serve": "Answer for photos over HTTP with a trained model; on this machine unless told.",
    "evaluate": "Score any detections against any truth (VOC, COCO).",
    "compare": "Compare two scored runs: is the difference more than chance, which photos changed.",
    "check": "Look through a data set and name what is wrong, file and line.",
    "demo": "Draw a data set, train on it, show the result; no download, two minutes.",
    "reproduce": "Measure a table or the claims of the paper, both numbers side by side.",
    "benchmark": "Measure the speed of this machine beside named peers.",
    "export": "Write a classifier, a detector or the pooling as ONNX, checked by onnxruntime.",
    "doctor": "Check this installation, and that models are whole and answer as they did.",
    "info": "Show versions, kernels, devices and limits.",
}
# commands that share a module with another one: that module, and the name of their app in it
SHARED = {"compare": ("evaluate", "compare_app")}
# typer's errors about words on the command line; the class has no public name in every version
_WordError = cast(type[Exception], typer.BadParameter.__mro__[2])
_MEMORY_HELP = (
    "what would help: smaller images (--imgsz), smaller batches (--batch), fewer proposals "
    "(--max-proposals), or --device cpu where the graphics card is full"
)
_OUTPUT_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


class Stopped(KeyboardInterrupt):
    """A signal asks the command to stop.

    Where KeyboardInterrupt itself passes through ``exec`` of a text, such as that of a dataclass
    that is being made, ``python -m`` kills itself by SIGINT in the end, whatever was caught.
    """


class StopSignals:
    """Remembers which signal came; installed once, by the command line only.

    Example:
        >>> StopSignals().exit_code
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._process = 0

    def install(self) -> None:
        """Listen to SIGINT and SIGTERM, unless the caller had them ignored (``nohup``)."""
        self._process = os.getpid()
        self._watch()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)
                # the last of all that is done at the end: then no handler is called any more
                atexit.register(signal.signal, number, signal.SIG_IGN)

    def _watch(self) -> None:
        """End at the second signal even while a library computes: Python heeds none meanwhile."""
        if not hasattr(os, "register_at_fork"):  # Windows, where a pipe always blocks
            return
        heard, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        # a worker that is forked would tell of its own signals
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

        def watch() -> None:
            count = 0
            while numbers := os.read(heard, 16):
                ours = [each for each in numbers if signal.getsignal(each) == self._stop]
                count += len(ours)
                if ours and count > 1:
                    os._exit(128 + ours[-1])

        threading.Thread(target=watch, name="sppnet-signals", daemon=True).start()

    def end_with(self, code: int) -> None:
        """From now on a signal ends the process at once, and the code stays that of the work."""

        def leave(number: int, frame: FrameType | None) -> None:
            os._exit(code)

        for number in _SIGNALS:
            if signal.getsignal(number) == self._stop:
                signal.signal(number, leave)

    @property
    def exit_code(self) -> int | None:
        """Give 128 + the signal, or None if none came."""
        return None if self.received is None else 128 + self.received

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if os.getpid() != self._process:  # a forked worker: its parent decides, it just goes
            os._exit(128 + number)
        if self.received is not None:
            os._exit(128 + number)
        self.received = signal.Signals(number)
        raise Stopped


class LazyCommands(TyperGroup):
    """A group that lists its commands without importing them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in place of its line in the help."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest


def load_command(name: str) -> Any:
    """Import the module of a command and give its command object.

    Args:
        name: One of `COMMANDS`.

    Example:
        >>> load_command("info").name
        'info'
    """
    module, app = SHARED.get(name, (name, "app"))
    command = typer.main.get_command(getattr(import_module(f"sppnet.app.{module}"), app))
    command.name = name
    return command


def _show_version(wanted: bool) -> None:
    if wanted:
        console.say(f"sppnet {__version__}")
        raise typer.Exit


def _about(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Recognise and find things in images of any size, the SPP-net way."""


def build_app() -> typer.Typer:
    """Build the command line; a command's own options come from its module when it is called."""
    app = typer.Typer(cls=LazyCommands, context_settings=HELP_SETTINGS, no_args_is_help=True)
    app.callback()(_about)
    for name, line in COMMANDS.items():
        app.command(name, help=line)(lambda: None)
    return app


def run() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal stops nothing
    # Threads that wait must not hold the cores: beside other programs that costs a factor of ten.
    # Some microseconds they may: sleeping between small operations doubles their time. Both are
    # read when torch is loaded, later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    signals = StopSignals()
    signals.install()
    sys.exit(_run_until_stopped(sys.argv[1:], signals))


def _run_until_stopped(arguments: Sequence[str], signals: StopSignals) -> int:
    """Run one command line; a signal may come at any moment of it."""
    try:
        code = main(arguments, signals)
        _flush(sys.stdout)
        signals.end_with(code)
    except KeyboardInterrupt:  # before the first line of the command or after the last
        return _explain_stop(signals)
    return code


def main(arguments: Sequence[str], signals: StopSignals | None = None) -> int:
    """Run one command line and give its exit code; errors are printed as one line.

    Args:
        arguments: The words after ``sppnet``.
        signals: Where a signal that stops the command is remembered.

    Returns:
        The exit code.

    Example:
        >>> main(["--version"])
        sppnet 0.1.0
        0
    """
    if not console.debug_wanted():
        warnings.showwarning = _warn_in_one_line
    logging.getLogger("sppnet").addHandler(_LINES)
    try:
        return _invoke(list(arguments), signals)
    except _WordError as problem:
        return _explain_words(problem)
    except SppnetError as problem:
        return _fail(problem, problem.exit_code)
    except OSError as problem:
        return _explain_memory(problem) or _explain_system(problem)
    except typer.Abort:
        return console.WRONG_USAGE
    except Exception as problem:
        if signals is not None and signals.received is not None:
            return _explain_stop(signals)  # a library made another error of the stop
        return _explain_memory(problem) or _explain_threads(problem) or _explain_bug(problem)


def _invoke(arguments: list[str], signals: StopSignals | None) -> int:
    """Run the words; the code is what the command returned or asked for."""
    command = typer.main.get_command(build_app())
    try:
        code = command.main(args=arguments, prog_name="sppnet", standalone_mode=False)
    except KeyboardInterrupt:
        code = 130
    except SystemExit as ending:  # how typer ends on a closed pipe
        code = console.DONE if isinstance(ending.__context__, OSError) else ending.code
    if code == 130:
        return _explain_stop(signals)
    return code if isinstance(code, int) else console.DONE


def _explain_stop(signals: StopSignals | None) -> int:
    """Say that a signal stopped the command; the exit code."""
    console.note("stopped; what is finished is kept, the same command goes on from there")
    return (signals and signals.exit_code) or 130


def _explain_words(problem: Exception) -> int:
    """Say in one line what is wrong with the words; a group without a command shows its help."""
    if type(problem).__name__ == "NoArgsIsHelpError":
        return console.WRONG_USAGE  # making the error printed the help
    context = getattr(problem, "ctx", None)
    where = f"; see '{context.command_path} --help'" if context else ""
    text = cast(Any, problem).format_message()
    words = " ".join(text.split()).rstrip(".")
    words = re.sub(
        r" \((?:Did you mean|Possible options?:?) (.*?)\??\)$", r". Did you mean \1?", words
    )
    return _fail(UsageError(f"{words[:1].lower()}{words[1:]}{where}"), console.WRONG_USAGE)


def _explain_system(problem: OSError) -> int:
    """Tell a full or read-only disk, which is the user's to mend, from a bug."""
    if isinstance(problem, BrokenPipeError):
        return console.DONE  # the reader had all it wanted
    if "No usable temporary directory" in str(problem):  # of Python's tempfile
        line = "no folder for temporary files can be written; TMPDIR names another one"
        return _fail(OutputError(line), console.NO_OUTPUT)
    if problem.errno in _OUTPUT_ERRNOS:
        return _fail(
            OutputError(problem.strerror or str(problem), path=problem.filename), console.NO_OUTPUT
        )
    return _explain_bug(problem)


def _explain_memory(problem: Exception) -> int:
    """Say what would help where memory ran out; 0 if it did not."""
    if not is_out_of_memory(problem):
        return 0
    detail = " ".join(str(problem).split()).split(". ")[0][:120]
    line = f"the memory does not suffice{f' ({detail})' if detail else ''}; {_MEMORY_HELP}"
    return _fail(OutputError(line, code="E_MEMORY"), console.NO_OUTPUT)


def _explain_threads(problem: Exception) -> int:
    """Say which limit is reached where no thread can be begun; 0 if that is not what went wrong."""
    if not isinstance(problem, RuntimeError) or "can't start new thread" not in str(problem):
        return 0
    line = "the system lets this user begin no more threads or processes (ulimit -u)"
    return _fail(OutputError(line, code="E_THREADS"), console.NO_OUTPUT)


def _explain_bug(problem: Exception) -> int:
    line = f"{type(problem).__name__}: {problem}".replace("\n", " ")
    hint = "" if console.debug_wanted() else "; this is a bug, --debug shows where"
    return _fail(SppnetError(f"{line}{hint}"), console.BUG)


def _fail(problem: SppnetError, code: int) -> int:
    if console.debug_wanted():
        traceback.print_exc()
    console.error(problem)
    return code


def _warn_in_one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _warn(message)


def _warn(message: Warning | str) -> None:
    """Print a warning that may have several lines as one."""
    console.warn(" ".join(str(message).split()))


class _Lines(logging.Handler):
    """Prints what the rooms log as warnings of one line."""

    def emit(self, record: logging.LogRecord) -> None:
        _warn(record.getMessage())


_LINES = _Lines()


def _flush(stream: TextIO | None) -> None:
    try:
        if stream is not None:
            stream.flush()
    except BrokenPipeError:
        console.silence(cast(TextIO, stream))
