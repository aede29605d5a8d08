"""Processes that look at photos: one photo at a time each, within limits, replaced when they die.

Photos of strangers are decoded in children, never in the server. A child ignores the signals of its
terminal, may not allocate more than it was given, and is killed when a photo takes too long; the
request gets a code, and another child takes its place. What passes between the two are bytes: a
name, a photo, and an answer as text. Nothing that a child sends is ever unpickled.

Each child has a thread here that starts it, gives it photos from the one queue, and replaces it.
"""

import json
import math
import multiprocessing
import os
import secrets
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sppnet.errors import (
    OutputError,
    SppnetError,
    UnusableFileError,
    UsageError,
    is_out_of_memory,
    note_bug,
)

MOST_ANSWER = 1 << 26  # bytes that a child may answer with
LOADING_SECONDS = 300.0  # for a child to read its model
LOOK = 0.25  # seconds between looks at a child that has nothing to do
FIRST_REST, LONGEST_REST = 0.5, 30.0  # seconds between attempts to start a child
STOP_SECONDS = 2.0  # for a child to end by itself
_KINDS = {each.exit_code: each for each in (UsageError, OutputError)}  # that a child may tell of


class Model(Protocol):
    """What a child holds: something that answers for photos."""

    def describe(self) -> dict[str, Any]:
        """Say what it is, in what JSON can hold."""

    def answer(self, name: str, photo: bytes) -> dict[str, Any]:
        """Answer for one photo, in what JSON can hold; raises ``InputError`` if it is of no use."""


OpenModel = Callable[..., Model]


@dataclass(frozen=True)
class PoolLimits:
    """How much is done at once, and how much a photo may cost.

    Args:
        workers: Child processes.
        queue: Photos that wait, beside those that are looked at.
        seconds: Time for one photo; it may wait as long, too.
        megabytes: Memory of a child for a photo, beside what its model takes; Linux only.
    """

    workers: int = 1
    queue: int = 32
    seconds: float = 30.0
    megabytes: int = 2048


class Reply(NamedTuple):
    """What became of a photo.

    Args:
        code: Empty if it was answered, else why not.
        text: The answer in JSON.
        waited: Seconds in the queue.
        seconds: Seconds that the child took.
        number: Of the line on stderr that says more; empty if there is none.
    """

    code: str
    text: str = ""
    waited: float = 0.0
    seconds: float = 0.0
    number: str = ""


class BusyError(Exception):
    """The queue has no room for so many photos.

    Args:
        seconds: After which it may have.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full for about {seconds} s")
        self.seconds = seconds


class NotReadyError(Exception):
    """No child is there that could answer, and none is on its way."""


@dataclass
class _Job:
    """A photo in the queue."""

    name: str
    photo: bytes
    future: "Future[Reply]" = field(default_factory=Future)
    begin: float = field(default_factory=time.monotonic)
    number: str = field(default_factory=lambda: secrets.token_hex(4))  # in the log

    def finish(self, code: str, text: str = "", seconds: float = 0.0, number: str = "") -> None:
        """Tell whoever waits; the future must be running."""
        waited = time.monotonic() - self.begin - seconds
        self.future.set_result(Reply(code, text, waited, seconds, number))


class WorkerPool:
    """Gives photos to children, and keeps as many of them alive as were asked for.

    Args:
        open_model: A function of a module; called in each child.
        arguments: What it is given.
        limits: Of the children and the queue.
        tell: Told in a sentence when a child is lost.

    Attributes:
        about: What the model says of itself, once :meth:`start` returned.
        deaths: How many children were lost, by the code of what they were lost to.

    Example:
        >>> WorkerPool(dict, (), PoolLimits(workers=2)).is_ready
        False
    """

    def __init__(
        self,
        open_model: OpenModel,
        arguments: Sequence[Any],
        limits: PoolLimits,
        tell: Callable[[str], None] = lambda words: None,  # noqa: ARG005
    ) -> None:
        self.limits, self.tell = limits, tell
        self.about: dict[str, Any] = {}
        self.deaths: Counter[str] = Counter()
        self._open = (open_model, tuple(arguments), limits.megabytes)
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._children: dict[int, _Child] = {}  # by the number of their thread
        self._failing: set[int] = set()  # of which threads the last child could not start
        self._is_draining = self._is_closed = False
        self._mean = 0.5  # seconds of a photo, lately
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the children, and wait until each has read the model.

        Raises:
            SppnetError: What a child said that could not; close the pool then, too.
        """
        first = {number: _Child(*self._open) for number in range(self.limits.workers)}
        self._children.update(first)
        threading.Thread(target=self._watch, daemon=True).start()
        for child in first.values():
            self.about = child.greet()
        for number, child in first.items():
            thread = threading.Thread(target=self._run, args=(number, child), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _watch(self) -> None:
        """Kill children that are late, even those that do not read what they are sent."""
        while not self._is_closed:
            for child in list(self._children.values()):
                child.end_if_late()
            time.sleep(LOOK)

    @property
    def is_ready(self) -> bool:
        """Whether new photos are welcome: a child is alive, and no end was announced."""
        return not self._is_draining and self.ready_count > 0

    @property
    def ready_count(self) -> int:
        """How many children are alive and have read the model."""
        return sum(each.is_alive for each in list(self._children.values()))

    @property
    def waiting_count(self) -> int:
        """Photos in the queue."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for one photo more."""
        with self._changed:
            return self._room() < 1

    def _room(self) -> int:
        """For how many photos there is room; those that nobody waits for any more make room."""
        if len(self._waiting) >= self.limits.queue:
            self._waiting = deque(job for job in self._waiting if not job.future.cancelled())
        return self.limits.queue - len(self._waiting)

    def processes(self) -> list[int]:
        """Numbers of the processes that are alive."""
        return [each.pid for each in list(self._children.values()) if each.is_alive]

    def seconds_until_room(self) -> int:
        """Whole seconds until the queue is likely to have been worked off."""
        work = self._mean * (len(self._waiting) + 1) / max(1, self.limits.workers)
        return min(60, max(1, math.ceil(work)))

    def submit(self, photos: Sequence[tuple[str, bytes]]) -> "list[Future[Reply]]":
        """Put photos into the queue, all of them or none.

        Args:
            photos: A name and the bytes of each.

        Returns:
            What will hold the reply to each; a cancelled one is not looked at.

        Raises:
            BusyError: If the queue has no room.
            NotReadyError: If no child is there and none can be started.
        """
        jobs = [_Job(name, photo) for name, photo in photos]
        with self._changed:
            if self._is_closed or len(self._failing) == self.limits.workers:
                raise NotReadyError
            if len(jobs) > self._room():
                raise BusyError(self.seconds_until_room())
            self._waiting.extend(jobs)
            self._changed.notify(len(jobs))
        return [job.future for job in jobs]

    def drain(self) -> None:
        """Say no longer that new photos are welcome; those of requests under way still are."""
        self._is_draining = True

    def close(self) -> None:
        """End all children; what is still in the queue is refused."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._refuse_waiting()
        for thread in self._threads:
            thread.join(STOP_SECONDS)
        for child in list(self._children.values()):
            child.end()

    def _run(self, number: int, child: "_Child") -> None:
        """One thread: give photos to one child, and replace it when it is lost."""
        rest = FIRST_REST
        while not self._is_closed:
            if child.is_alive:
                rest = FIRST_REST
                self._serve(child)
            if self._is_closed:
                break
            child.end()
            self._pause(rest)
            rest = min(LONGEST_REST, 2 * rest)
            child = self._children[number] = _Child(*self._open)
            self._welcome(number, child)
        child.end()

    def _welcome(self, number: int, child: "_Child") -> None:
        """Hear what a new child says; one that cannot be used is ended, and tried again later."""
        try:
            is_same = child.greet() == self.about  # else answers of two models would be mixed up
        except SppnetError:
            is_same = False
        with self._changed:
            if is_same:
                self._failing.discard(number)
                return
            self._failing.add(number)
        child.end()
        self._note_loss("E_NOT_READY")
        if len(self._failing) == self.limits.workers:
            self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        """Refuse what is in the queue: nobody will look at it soon."""
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                job.finish("E_NOT_READY")

    def _note_loss(self, code: str, number: str = "") -> None:
        """Count a child that is gone, and say so, and with which photo."""
        self.deaths[code] += 1
        mark = f"[{number}] " if number else ""
        self.tell(f"{mark}a worker was lost ({code}); another one takes its place")

    def _pause(self, seconds: float) -> None:
        """Rest before another child is started, unless there was no death for long."""
        end = time.monotonic() + (seconds if seconds > FIRST_REST else 0.0)
        while time.monotonic() < end and not self._is_closed:
            time.sleep(LOOK)

    def _serve(self, child: "_Child") -> None:
        """Give photos to a child until it is lost or the pool is closed."""
        while (job := self._take(child)) is not None:
            begin = time.monotonic()
            if begin - job.begin > self.limits.seconds:
                job.finish("E_TIMEOUT")
                continue
            code, text = child.ask(job, self.limits.seconds)
            seconds = time.monotonic() - begin
            if not code:
                self._mean += 0.1 * (seconds - self._mean)
            if is_lost := not child.is_alive:
                self._note_loss(code, job.number)
            job.finish(code, text, seconds, job.number if is_lost or code == "E_BUG" else "")
            if is_lost:
                return

    def _take(self, child: "_Child") -> _Job | None:
        """The next photo that somebody still waits for; None if the child died or all is over."""
        with self._changed:
            while not self._is_closed:
                if not child.is_alive:
                    self._note_loss("E_WORKER")
                    return None
                while self._waiting:
                    job = self._waiting.popleft()
                    if job.future.set_running_or_notify_cancel():
                        return job
                self._changed.wait(LOOK)
        return None


class _Child:
    """A process, the pipe to it, and whether it can be asked."""

    def __init__(self, open_model: OpenModel, arguments: tuple[Any, ...], megabytes: int) -> None:
        # spawned: a fork would inherit connections, locks and the threads of nobody
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=work, args=(theirs, open_model, arguments, megabytes), daemon=True
        )
        self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0
        self._lock = threading.Lock()  # whoever looks at the process must find it open
        self._has_greeted = self._is_lost = self._is_late = False
        self._deadline = math.inf  # of what it is asked for

    @property
    def is_alive(self) -> bool:
        """Whether it has read the model and can be asked."""
        with self._lock:
            return self._has_greeted and not self._is_lost and self._process.exitcode is None

    def greet(self) -> dict[str, Any]:
        """Wait for what it says of its model.

        Raises:
            UnusableFileError: If it could not read the model, with the child's words.
            UsageError: If it was asked for what the model cannot do.
            OutputError: If it died while it read the model.
        """
        self._deadline = time.monotonic() + LOADING_SECONDS
        try:
            said = json.loads(self._pipe.recv_bytes(MOST_ANSWER))
        except (EOFError, OSError, ValueError):
            rule = "a worker ended before it had read the model; does the memory suffice?"
            raise OutputError(rule, code="E_MEMORY") from None
        finally:
            self._deadline = math.inf
        if "failed" in said:
            exit_code, code, message, path = said["failed"]
            raise _KINDS.get(exit_code, UnusableFileError)(message, path=path, code=code)
        self._has_greeted = True
        return dict(said)

    def ask(self, job: _Job, seconds: float) -> tuple[str, str]:
        """Let it look at a photo: code and text of the answer; it may be lost then."""
        self._deadline = time.monotonic() + seconds
        try:
            for part in (job.number.encode(), job.name.encode("utf-8", "replace"), job.photo):
                self._pipe.send_bytes(part)
            code = self._pipe.recv_bytes(64).decode("ascii")
            text = self._pipe.recv_bytes(MOST_ANSWER).decode("ascii")
        except (EOFError, OSError, ValueError):  # it died, was killed, or sent what it must not
            self.end()
            return ("E_TIMEOUT" if self._is_late else "E_WORKER"), ""
        finally:
            self._deadline = math.inf
        if code == "E_MEMORY":  # what is left of it may be in pieces
            self.end()
        return code, text

    def end_if_late(self) -> None:
        """Kill it if what it was asked for takes too long."""
        with self._lock:
            if time.monotonic() > self._deadline and not self._is_lost:
                self._is_late = True
                self._process.kill()

    def end(self) -> None:
        """End the process: it goes when the pipe is closed, or is killed."""
        was_lost, self._is_lost = self._is_lost, True
        if was_lost:
            return
        self._pipe.close()
        self._process.join(STOP_SECONDS if self._has_greeted else 0.0)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        with self._lock:
            self._process.close()  # and its pipes, as soon as it is gone


def work(pipe: Connection, open_model: OpenModel, arguments: Sequence[Any], megabytes: int) -> None:
    """What a child does: read the model, then answer for photos until the pipe is closed.

    Args:
        pipe: To the server.
        open_model: Reads the model.
        arguments: What it is given.
        megabytes: Memory for a photo, beside what the model takes.
    """
    _belong_to_parent()
    try:
        model = open_model(*arguments)
    except SppnetError as error:
        _say(pipe, {"failed": [error.exit_code, error.code, error.message, str(error.path or "")]})
        return
    limit_memory(megabytes)
    _say(pipe, model.describe())
    with suppress(EOFError, OSError):  # the server has gone
        while True:
            number, name, photo = (pipe.recv_bytes() for _ in range(3))
            code, text = _answer(model, number.decode(), name.decode("utf-8"), photo)
            pipe.send_bytes(code.encode("ascii"))
            pipe.send_bytes(text.encode("ascii"))


def _say(pipe: Connection, words: dict[str, Any]) -> None:
    pipe.send_bytes(json.dumps(words).encode("ascii"))


def _answer(model: Model, number: str, name: str, photo: bytes) -> tuple[str, str]:
    """Code and text for one photo, whatever happens; only the code of an error leaves the child."""
    try:
        return "", json.dumps(model.answer(name, photo), allow_nan=False)
    except SppnetError as error:
        return error.code, ""
    except Exception as error:
        if is_out_of_memory(error):
            return "E_MEMORY", ""
        note_bug("a photo", error, number)
        return "E_BUG", ""


def _belong_to_parent() -> None:
    """Leave signals to the server, which closes the pipe; end when it is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)  # even where the main thread hangs in a decoder

    threading.Thread(target=follow, daemon=True).start()


def limit_memory(megabytes: int) -> None:
    """Let this process allocate so much more than it has now; elsewhere than on Linux, nothing.

    Args:
        megabytes: How much; what is asked for beyond that fails, and nothing else on the machine
            is in danger. There is no dump of a process that dies, either: it would hold photos.
    """
    if sys.platform != "linux":
        return
    resource = import_module("resource")  # of Unix only
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmData:"))
    most = 1024 * int(kilobytes) + 1_000_000 * megabytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
