r"""Changes the code of a room bit by bit and counts the changes that its tests notice: id B3.

    pip install coverage
    python benchmarks/reliability/mutants.py geometry storage --mutants 200 --seed 0

The source and the tests are copied into a temporary folder, where pytest collects the room's tests.
They run once, and coverage says which test reaches which line. Then a random choice of the changes
that ``mutations.py`` knows is made one at a time, each in a process that is forked from the one
that has collected everything: the function gets its changed code, and the tests that reach the line
run, the quickest files first, until one fails. A change that none of them notices is tried once
more with the room's tests that start processes, where coverage sees nothing. What is done while a
module is imported is changed in the copy instead, and a process starts anew.

Prints JSON: of the changes that were judged the share that was killed, with its interval of 95 %,
and the survivors by name. Those in ``equivalent_mutants.json`` make no difference and are not
judged; each has its reason there. Tests that are marked slow do not run. Left out are the kernels
of graphics cards, which have no tests of their own without one.
"""

import argparse
import contextlib
import gc
import importlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from mutations import Mutation, mutated, mutations

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
LEFT_OUT = re.compile(r"triton_\w+\.py$")
# what tests import anyway, and a forked process then has
IMPORTED = (
    "torch", "torchvision", "numpy", "PIL.Image", "PIL.ImageDraw", "cv2", "sklearn.isotonic",
    "sklearn.linear_model", "hypothesis", "hypothesis.strategies", "safetensors.torch", "onnx",
    "onnxruntime", "jinja2", "filelock", "yaml", "pandas", "faster_coco_eval", "pycocotools",
)  # fmt: skip
SURVIVED = ("survived", "no tests")
STARTS = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.spawn")


@dataclass
class Seen:
    """What the tests of a room do while nothing is changed.

    Args:
        seconds: Of a processor, of each test that passes.
        lines: For each file, the tests that reach each line.
        starters: Tests that start processes.
        failed: Tests that do not pass here, and are not used.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    starters: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, found: dict[str, Any]) -> "Seen":
        """Of JSON, without the tests that do not pass."""
        lines = {
            file: {int(line): who for line, who in each.items()}
            for file, each in found["lines"].items()
        }
        seconds = {test: n for test, n in found["seconds"].items() if test not in found["failed"]}
        return cls(seconds, lines, found["starters"], found["failed"])

    def stages(self, file: str, mutation: Mutation) -> list[list[str]]:
        """Tests that a change can make a difference to: those that reach it, then all starters."""
        lines = self.lines.get(file, {})
        first, last = mutation.lines if not mutation.imported else (0, max(lines, default=0))
        near = {test for line in range(first, last + 1) for test in lines.get(line, ())}
        if mutation.imported and not near:  # what is read, and run by somebody else: any may see it
            near = set(self.seconds)
        near &= self.seconds.keys()
        far = (set(self.starters) & self.seconds.keys()) - near
        return [self.ordered(near, Path(file).stem), self.ordered(far)]

    def ordered(self, tests: set[str], module: str = "") -> list[str]:
        """The file of the module, then the quickest files; in a file the quickest tests."""
        files: Counter[str] = Counter()
        for test in tests:
            files[test.partition("::")[0]] += self.seconds[test]  # type: ignore[assignment]

        def place(test: str) -> tuple[Any, ...]:
            file = test.partition("::")[0]
            return (Path(file).stem != f"test_{module}", files[file], file, self.seconds[test])

        return sorted(tests, key=place)


class _Chosen:
    """Plugin of pytest: runs the tests of a list, in its order, and remembers a failure."""

    def __init__(self, tests: list[str]) -> None:
        self.places = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep what is on the list."""
        items[:] = [item for item in items if item.nodeid in self.places]
        items.sort(key=lambda item: self.places[item.nodeid])


class Collected:
    """Plugin of pytest: has the tests of a room, and judges changes instead of running them.

    Args:
        folder: Copy of the repository.
        room: A folder of the package.
        chosen: Files and changes, in the order in which they are judged.
        minutes: Stop after so many.
        out: Gets a line of JSON for each change, and before them what the tests do.
    """

    def __init__(
        self,
        folder: Path,
        room: str,
        chosen: list[tuple[str, Mutation]],
        minutes: float,
        out: Path,
    ) -> None:
        self.folder, self.room, self.chosen, self.out = folder, room, chosen, out
        self.end = time.monotonic() + 60 * minutes
        self.items: dict[str, pytest.Item] = {}
        self.failed: list[str] = []
        self.functions: dict[tuple[str, str, int], list[FunctionType]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what does not pass."""
        if report.outcome != "passed":
            self.failed.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests once, then judge the changes."""
        self.items = {item.nodeid: item for item in session.items}
        for each in gc.get_objects():
            if type(each) is FunctionType and str(self.folder) in each.__code__.co_filename:
                self.functions.setdefault(_key(each.__code__), []).append(each)
        gc.freeze()
        seen = self._look()
        with self.out.open("a") as lines:
            lines.write(json.dumps(vars(seen)) + "\n")
            for number, (file, mutation) in enumerate(self.chosen):
                if time.monotonic() > self.end:
                    break
                state = "" if mutation.imported else self._judge(file, mutation, seen)
                lines.write(json.dumps([number, state]) + "\n")
                lines.flush()
                print(f"{number} {state} {file} {mutation.name}", file=sys.stderr, flush=True)
        return True

    def run(self, tests: Sequence[str]) -> int:
        """Run tests until one fails; 1 if one did."""
        for test, following in zip(tests, [*tests[1:], None], strict=True):
            item, after = self.items[test], self.items[following] if following else None
            item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
            if self.failed:
                return 1
        return 0

    def _look(self) -> Seen:
        """Run all tests as the code is."""
        kept, seen = self.folder / "seen.json", Seen()
        now = ""

        def heard(event: str, _: object) -> None:
            if event in STARTS and now and now not in seen.starters:
                seen.starters.append(now)

        def work() -> int:
            nonlocal now
            from coverage import Coverage

            place = self.folder / "src/sppnet" / self.room
            watched = Coverage(data_file=None, config_file=False, include=[f"{place}/*"])
            sys.addaudithook(heard)
            watched.start()
            tests = list(self.items)
            for test, following in zip(tests, [*tests[1:], None], strict=True):
                now, begin = test, time.process_time()
                watched.switch_context(test)
                item, after = self.items[test], self.items[following] if following else None
                item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
                seen.seconds[test] = time.process_time() - begin
            watched.stop()
            data = watched.get_data()
            for file in data.measured_files():
                name = str(Path(file).relative_to(self.folder / "src/sppnet"))
                lines = data.contexts_by_lineno(file)
                seen.lines[name] = {
                    line: [who for who in whose if who] for line, whose in lines.items()
                }
            seen.failed = sorted(set(self.failed))
            kept.write_text(json.dumps(vars(seen)))
            return 0

        code = forked(work, self.folder / "said.txt", 3600)
        if code != 0:
            raise SystemExit(f"the tests do not run: {code}")
        return Seen.read(json.loads(kept.read_text()))

    def _judge(self, file: str, mutation: Mutation, seen: Seen) -> str:
        """What becomes of a change of a function."""
        path = self.folder / "src/sppnet" / file
        text = path.read_text(encoding="utf-8")
        codes = [
            {
                _key(code): code
                for code in _codes(compile(source, str(path), "exec", dont_inherit=True))
            }
            for source in (text, mutated(text, mutation))
        ]
        changed = [key for key, code in codes[1].items() if codes[0].get(key) != code]

        def work(tests: list[str]) -> int:
            for key in changed:
                for function in self.functions.get(key, ()):
                    with contextlib.suppress(ValueError):  # a closure over other names: made anew
                        function.__code__ = codes[1][key]
            return self.run(tests)

        if not any(self.functions.get(key) for key in changed):
            return ""
        return judged(seen.stages(file, mutation), seen, work, self.folder / "said.txt")


def _key(code: CodeType) -> tuple[str, str, int]:
    """What tells a function from all others."""
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The codes of all functions in a module."""
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


def _pytest(arguments: list[str], plugin: object) -> int:
    """Run pytest in this process, without plugins that were installed for others."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    fixed = ["-q", "-s", "-p", "no:cacheprovider", "--no-header", "--tb=line", "--color=no"]
    return int(pytest.main([*fixed, *arguments], plugins=[plugin]))


def forked(work: Callable[[], int], said: Path | None, most: float) -> int | str:
    """Do work in a process of its own; its code, or what ended it.

    Args:
        work: Called there; what it returns is the code.
        said: Gets what it prints, if that is not to be seen.
        most: Seconds of a processor after which it is ended; 20 times as many of the clock.

    Returns:
        The code, ``"timeout"`` or ``"signal"``.
    """
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(most), math.ceil(most) + 5))
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if said is not None:
                sink = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(sink, 1)
                os.dup2(sink, 2)
            code = work()
        except Exception:
            traceback.print_exc()
        finally:
            with contextlib.suppress(ValueError, OSError):
                sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + 20 * most
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _end_group(child)
            if os.WIFEXITED(status):
                return os.WEXITSTATUS(status)
            return "timeout" if os.WTERMSIG(status) == signal.SIGXCPU else "signal"
        time.sleep(0.02)
    _end_group(child)
    os.waitpid(child, 0)
    return "timeout"


def _end_group(child: int) -> None:
    """End what a test left running."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def judged(
    stages: list[list[str]], seen: Seen, work: Callable[[list[str]], int], said: Path
) -> str:
    """What becomes of a change.

    Args:
        stages: Tests to run, stage by stage.
        seen: Their seconds.
        work: Runs tests on the changed code.
        said: Gets what pytest says.

    Returns:
        ``killed``, ``timeout``, ``signal``, ``no tests`` or ``survived``.
    """
    for tests in filter(None, stages):
        most = 30 + 10 * sum(seen.seconds[test] for test in tests)
        code = forked(lambda: work(tests), said, most)  # noqa: B023
        if code in (5, 70):
            raise SystemExit(f"no test was run of {tests[:3]}: {said.read_text()[-1000:]}")
        if code != 0:
            return code if isinstance(code, str) else "killed"
    return "survived" if any(stages) else "no tests"


def judge_file(
    file: Path, mutation: Mutation, stages: list[list[str]], seen: Seen, said: Path
) -> str:
    """What becomes of a change that is made in the file, which is as before afterwards.

    Args:
        file: Of the copy.
        mutation: The change.
        stages: Tests to run, stage by stage.
        seen: Their seconds.
        said: Gets what pytest says.

    Returns:
        As :func:`judged`.
    """

    def work(tests: list[str]) -> int:
        files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
        return _pytest(["-x", *files], _Chosen(tests))

    before, kept = file.read_text(encoding="utf-8"), file.stat()
    file.write_text(mutated(before, mutation), encoding="utf-8")
    os.utime(file, (kept.st_atime, time.time() + 10_000))  # no stale compiled file is taken for it
    try:
        return judged(stages, seen, work, said)
    finally:
        file.write_text(before, encoding="utf-8")
        os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def interval(killed: int, judged: int) -> tuple[float, float]:
    """Wilson's interval of 95 % of a share.

    Example:
        >>> interval(90, 100)
        (0.8256, 0.9448)
    """
    z = 1.959964
    share, middle = killed / judged, 1 + z * z / judged
    half = z * math.sqrt(share * (1 - share) / judged + z * z / (4 * judged * judged))
    centre = share + z * z / (2 * judged)
    return round((centre - half) / middle, 4), round((centre + half) / middle, 4)


def equivalents() -> dict[str, dict[str, str]]:
    """For each file the changes that make no difference, with the reason."""
    found: dict[str, dict[str, str]] = json.loads(EQUIVALENT.read_text())
    return found


def changes(room: str) -> list[tuple[str, Mutation]]:
    """All changes of a room, with their files below ``src/sppnet``."""
    place = ROOT / "src" / "sppnet"
    files = [place / room] if room.endswith(".py") else sorted((place / room).rglob("*.py"))
    return [
        (str(file.relative_to(place)), mutation)
        for file in files
        if not LEFT_OUT.search(file.name)
        for mutation in mutations(file.read_text(encoding="utf-8"))
    ]


def mutate(
    room: str, chosen: list[tuple[str, Mutation]], tests: list[str], folder: Path, minutes: float
) -> dict[str, Any]:
    """Judge some changes of a room.

    Args:
        room: A folder of the package.
        chosen: Files and changes.
        tests: Tests and files with examples.
        folder: A copy of the repository.
        minutes: Stop after so many; the order is random, so what was judged is a fair choice.

    Returns:
        The figures of the room.
    """
    begin, out, said = time.monotonic(), folder / f"{room}.jsonl", folder / "said.txt"
    collected = Collected(folder, room, chosen, minutes, out)
    code = forked(lambda: _pytest(tests, collected), None, 100_000)
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    if code not in (0, 5) or not lines:
        raise SystemExit(f"the tests of {room} were not collected: {code}")
    seen = Seen.read(lines[0])
    states: list[tuple[str, str, str]] = []
    for number, state in lines[1:]:
        file, mutation = chosen[number]
        path = folder / "src/sppnet" / file
        state = state or judge_file(path, mutation, seen.stages(file, mutation), seen, said)
        states.append((file, mutation.name, state))
    counts = Counter(state for *_, state in states)
    killed = len(states) - counts["survived"] - counts["no tests"]
    return {
        "judged": len(states),
        "killed": killed,
        "share": round(killed / max(1, len(states)), 4),
        "interval": interval(killed, max(1, len(states))),
        "counts": dict(counts),
        "tests": len(seen.seconds),
        "failed": seen.failed,
        "survivors": [f"{file} {name}" for file, name, state in states if state in SURVIVED],
        "seconds": round(time.monotonic() - begin),
    }


def copy_into(folder: Path) -> None:
    """Copy what the tests need, and be there."""
    for part in ("src", "tests", "benchmarks", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "node_modules")
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    for part in ("README.md", "pyproject.toml", "hatch_build.py"):
        shutil.copy(ROOT / part, folder)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder / "src")
    sys.path.insert(0, str(folder / "src"))


def prepare() -> None:
    """Import what is not ours, so that each forked process has it."""
    for name in IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    hypothesis = importlib.import_module("hypothesis")
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True)
    hypothesis.settings.load_profile("mutants")


def main() -> None:
    """Mutate, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rooms", nargs="+", help="Rooms below src/sppnet.")
    parser.add_argument("--mutants", type=int, default=200, help="So many of each room.")
    parser.add_argument("--seed", type=int, default=0, help="Of the choice.")
    parser.add_argument("--minutes", type=float, default=600.0, help="A room; stop after so many.")
    parser.add_argument("--tests", nargs="+", help="Tests; all of the room, if not given.")
    parser.add_argument("--again", type=Path, help="JSON of a run: its survivors, and no others.")
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    asked = parser.parse_args()
    out = asked.out and asked.out.absolute()
    again = asked.again and json.loads(asked.again.read_text())["rooms"]
    alike = equivalents()
    found: dict[str, Any] = {"seed": asked.seed, "rooms": {}}
    prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_into(folder)
        for room in asked.rooms:
            every = changes(room)
            left = [each for each in every if each[1].name not in alike.get(each[0], {})]
            random.Random(f"{asked.seed} {room}").shuffle(left)
            chosen = left[: asked.mutants]
            if again:
                wanted = set(again[room]["survivors"])
                chosen = [each for each in left if f"{each[0]} {each[1].name}" in wanted]
            own = (f"tests/{room}", f"src/sppnet/{room}")
            tests = asked.tests or [place for place in own if Path(place).exists()]
            figures = mutate(room, chosen, tests, folder, asked.minutes) if chosen else {}
            found["rooms"][room] = {
                "in_all": len(every),
                "equivalent": len(every) - len(left),
                **figures,
            }
            if out is not None:
                out.write_text(json.dumps(found, indent=1) + "\n")
    text = json.dumps(found, indent=1)
    print(text)
    sys.stdout.flush()
    os.chdir(ROOT)


if __name__ == "__main__":
    main()
