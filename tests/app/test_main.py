"""How commands end: exit codes, one line on stderr, closed pipes, colours, signals."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PLANTED = [sys.executable, str(Path(__file__).with_name("planted_command.py"))]
SPPNET = [sys.executable, "-m", "sppnet"]


def call(
    words: list[str], cwd: Path, program: list[str] = PLANTED, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in a quiet environment."""
    environment = {k: v for k, v in os.environ.items() if k not in {"SPPNET_DEBUG", "NO_COLOR"}}
    return subprocess.run(
        [*program, *words],
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


HELP = (
    "what would help: smaller images (--imgsz), smaller batches (--batch), fewer proposals "
    "(--max-proposals), or --device cpu where the graphics card is full (E_MEMORY)"
)
ENDINGS = [
    ("fine", 0, ""),
    ("bug", 1, "RuntimeError: two lines; this is a bug, --debug shows where (E_BUG)"),
    ("memory", 6, f"the memory does not suffice; {HELP}"),
    ("onednn", 6, f"the memory does not suffice (could not create a primitive); {HELP}"),
    ("cuda", 6, f"the memory does not suffice (CUDA out of memory); {HELP}"),
    ("enomem", 6, f"the memory does not suffice ([Errno 12] Cannot allocate memory); {HELP}"),
    (
        "threads",
        6,
        "the system lets this user begin no more threads or processes (ulimit -u) (E_THREADS)",
    ),
    (
        "rooms",
        6,
        "no folder for temporary files can be written; TMPDIR names another one (E_OUTPUT)",
    ),
    ("usage", 2, "--x must be 1, got 2 (E_USAGE)"),
    ("package", 2, "needs tea: pip install tea (E_PACKAGE)"),
    ("some", 3, "'bad': the file is empty (E_EMPTY)"),
    ("problems", 3, "'a.xml': line 3: box is empty (E_BOX)"),
    ("hostile", 3, r"'a\nb\udcff.jpg': \x1b[31mred (E_FORMAT)"),
    ("all", 4, "none of 2 inputs could be used (E_NOTHING)"),
    ("nothing", 4, "'folder': no images in it (E_NOTHING)"),
    ("model", 5, "'run/model': not a model (E_CHECKSUM)"),
    ("output", 6, "'out/a.json': No space left on device (E_OUTPUT)"),
    ("full", 6, "'out/a.json': No space left on device (E_OUTPUT)"),
]


@pytest.mark.parametrize(("ending", "code", "line"), ENDINGS)
def test_ending_has_its_code_and_its_line(
    ending: str, code: int, line: str, tmp_path: Path
) -> None:
    result = call(["planted", ending], tmp_path)
    assert result.returncode == code, result.stderr
    errors = [text for text in result.stderr.splitlines() if text.startswith("sppnet: error: ")]
    assert (errors[-1:] or [""]) == ([f"sppnet: error: {line}"] if line else [""])
    assert "Traceback" not in result.stderr
    assert result.stdout == ("over\n" if code == 0 else "")


def test_counts_are_said_when_some_inputs_failed(tmp_path: Path) -> None:
    result = call(["planted", "some"], tmp_path)
    assert result.stderr.splitlines() == [
        "sppnet: error: 'bad': the file is empty (E_EMPTY)",
        "sppnet: 2 of 3 inputs done, 1 failed",
    ]


WRONG_WORDS = [
    (["planted", "fine", "--nonsense"], "no such option: --nonsense"),
    (["planted"], "missing argument"),
    (["planted", "fine", "--seed", "-1"], "invalid value for '--seed'"),
    (["planted", "fine", "--seed", "many"], "invalid value for '--seed'"),
    (["planted", "fine", "more"], "got unexpected extra argument"),
    (["planted", "fine", "--sed", "1"], "no such option: --sed. Did you mean --seed?"),
    (["plantde"], "no such command 'plantde'. Did you mean 'planted'?"),
]


@pytest.mark.parametrize(("words", "line"), WRONG_WORDS)
def test_wrong_words_are_one_line_and_code_2(words: list[str], line: str, tmp_path: Path) -> None:
    result = call(words, tmp_path)
    assert result.returncode == 2
    (error,) = result.stderr.splitlines()
    assert error.lower().startswith(f"sppnet: error: {line.lower()}")
    assert re.search(r"; see 'sppnet.* --help' \(E_USAGE\)$", error)


def test_no_words_at_all_show_the_help_and_code_2(tmp_path: Path) -> None:
    result = call([], tmp_path)
    assert result.returncode == 2
    assert "Usage:" in result.stdout


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_debug_shows_the_traceback(how: str, tmp_path: Path) -> None:
    words = ["planted", "bug"] + (["--debug"] if how == "flag" else [])
    variables = {"SPPNET_DEBUG": "1"} if how == "variable" else {}
    result = call(words, tmp_path, **variables)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1] == "sppnet: error: RuntimeError: two lines (E_BUG)"


@pytest.mark.parametrize("how", ["warning", "log"])
def test_warnings_of_libraries_are_one_line(how: str, tmp_path: Path) -> None:
    result = call(["planted", how], tmp_path)
    assert result.stderr == "sppnet: warning: first line second line\n"


def test_closed_pipe_is_quiet_and_the_work_goes_on(tmp_path: Path) -> None:
    line = f"'{PLANTED[0]}' '{PLANTED[1]}' planted lines | head -n 1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == ["x" * 80, "0"]
    assert result.stderr == ""
    assert (tmp_path / "end-reached").exists()


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", "| true"])
def test_help_survives_closed_streams(redirect: str, tmp_path: Path) -> None:
    line = f"'{sys.executable}' -m sppnet --help {redirect}; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.stdout.split()[-1] == "0"
    assert "Traceback" not in result.stderr


def test_full_disk_behind_stdout_is_code_6(tmp_path: Path) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        result = subprocess.run(
            [*PLANTED, "planted", "fine"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert result.returncode == 6
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "variables", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"HOME": ""}]
)
def test_poor_environments_change_nothing(variables: dict[str, str], tmp_path: Path) -> None:
    assert call(["planted", "fine"], tmp_path, **variables).stdout == "over\n"
    assert call(["--help"], tmp_path, SPPNET, **variables).returncode == 0
    assert call(["planted", "hostile"], tmp_path, **variables).stderr.count("\n") == 1


def on_terminal(words: list[str], cwd: Path, **variables: str) -> bytes:
    """Run the planted command on a terminal and give what it shows."""
    import pty

    leader, follower = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"}
    with subprocess.Popen(
        [*PLANTED, *words], cwd=cwd, env=environment | variables, stdout=follower, stderr=follower
    ):
        os.close(follower)
        shown = b""
        while True:
            try:
                piece = os.read(leader, 4096)
            except OSError:  # the program is gone
                break
            if not piece:
                break
            shown += piece
    os.close(leader)
    return shown


def test_terminal_gets_colour_and_bars_unless_told_not_to(tmp_path: Path) -> None:
    shown = on_terminal(["planted", "some"], tmp_path)
    assert b"\x1b[31merror\x1b[0m" in shown
    assert b"reading" in shown
    assert b"3/3" in shown
    plain = on_terminal(["planted", "some"], tmp_path, NO_COLOR="1")
    assert b"\x1b[31m" not in plain
    assert b"sppnet: error: 'bad'" in plain


@pytest.fixture
def heeded_signals() -> Iterator[None]:
    """Let child processes heed Ctrl-C, also where the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start_sleeping(cwd: Path, ending: str = "sleep") -> subprocess.Popen[str]:
    """Start the planted command and wait until it sleeps."""
    place, module = os.path.split(PLANTED[1])
    process = subprocess.Popen(
        [PLANTED[0], "-m", module.removesuffix(".py"), "planted", ending],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([place, *sys.path])},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "sppnet: ready\n"
    return process


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_and_ends_with_its_code(number: int, code: int, tmp_path: Path) -> None:
    with start_sleeping(tmp_path) as process:
        process.send_signal(number)
        _, shown = process.communicate(timeout=5)
    assert process.returncode == code
    assert (tmp_path / "saved").exists()
    assert shown.startswith("sppnet: stopped")
    assert shown.count("\n") == 1


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize(
    ("ending", "number", "code"),
    [
        ("sleep in a text", signal.SIGINT, 130),  # for which Python itself would die of SIGINT
        ("sleep in a text", signal.SIGTERM, 143),
        ("sleep badly", signal.SIGINT, 130),
        ("sleep afterwards", signal.SIGINT, 0),
        ("sleep afterwards", signal.SIGTERM, 0),
    ],
)
def test_signal_at_odd_moments_does_not_change_the_code(
    ending: str, number: int, code: int, tmp_path: Path
) -> None:
    with start_sleeping(tmp_path, ending) as process:
        process.send_signal(number)
        _, shown = process.communicate(timeout=5)
    assert process.returncode == code
    assert "Traceback" not in shown


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "stubborn").touch()
    with start_sleeping(tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        while not (tmp_path / "saved").exists():
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 143


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_second_signal_ends_a_computation(number: int, code: int, tmp_path: Path) -> None:
    with start_sleeping(tmp_path, "compute") as process:
        time.sleep(0.5)
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):  # the first waits for the end of it
            process.wait(timeout=1)
        process.send_signal(number)
        assert process.wait(timeout=5) == code
