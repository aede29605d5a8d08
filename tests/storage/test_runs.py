"""A run resumes only as the run it was, remembers its stages, and has one owner at a time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sppnet.errors import OutputError, UnusableFileError, UsageError
from sppnet.storage import RunFolder, Stages
from sppnet.storage.runs import arguments_without_secrets, environment, holds_run_of
from storage_faults import file_size_limit

CONFIG = {"backbone": "zf5", "levels": (1, 2, 3, 6), "svm": {"c": 0.001}, "data": Path("a")}


def begin(path: Path, config: dict = CONFIG, seed: int = 0, **options) -> RunFolder:
    return RunFolder.open(path, "detect train", config, seed, **options)


def test_begin_and_resume(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        assert not run.resumed
        with run.stage("features"):
            run.mark_done("features")
    with begin(tmp_path / "run") as run:
        assert run.resumed
        assert run.is_done("features")
        assert not run.is_done("svm")
        assert run.seconds().keys() == {"features"}


def test_run_json_says_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sppnet", "detect", "train", "--token", "s3cret"])
    begin(tmp_path, seed=5).close()
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["command"] == "detect train"
    assert record["seed"] == 5
    assert record["configuration"]["levels"] == [1, 2, 3, 6]
    assert record["versions"]["sppnet"]
    assert record["versions"]["torch"]
    assert record["threads"] >= 1
    assert record["argv"][-1] == "***"
    assert "s3cret" not in (tmp_path / "run.json").read_text()


@pytest.mark.parametrize(
    ("config", "seed", "message"),
    [
        (CONFIG | {"backbone": "alexnet"}, 0, "backbone = 'zf5', not 'alexnet'"),
        (CONFIG | {"levels": (1, 2)}, 0, r"levels = \[1, 2, 3, 6\], not \[1, 2\]"),
        (CONFIG | {"svm": {"c": 1.0}}, 0, r"svm\.c = 0\.001, not 1\.0"),
        (CONFIG | {"svm": {}}, 0, r"svm"),
        (CONFIG | {"more": 1}, 0, "more = None, not 1"),
        ({k: v for k, v in CONFIG.items() if k != "data"}, 0, "data = 'a', not None"),
        (CONFIG, 1, "seed = 0, not 1"),
    ],
)
def test_another_configuration_is_refused(
    tmp_path: Path, config: dict, seed: int, message: str
) -> None:
    with begin(tmp_path) as run:
        run.mark_done("features")
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(UsageError, match=message + ".*--fresh") as caught:
        begin(tmp_path, config, seed)
    assert caught.value.exit_code == 2
    assert (tmp_path / "run.json").read_text() == before
    with begin(tmp_path) as run:  # the lock was freed
        assert run.is_done("features")


def test_a_run_with_two_seeds_of_an_earlier_version_is_refused_as_such(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "toy", {"seed": 5}, seed=5):
        pass
    record = json.loads((tmp_path / "run.json").read_text())
    record["configuration"]["seed"] = 0  # as `classify fit --seed 5` left it
    (tmp_path / "run.json").write_text(json.dumps(record))
    with (
        pytest.raises(UsageError, match="an earlier version with two seeds, 5 and 0; use another"),
        RunFolder.open(tmp_path, "toy", {"seed": 5}, seed=5),
    ):
        pass


def test_another_command_is_refused(tmp_path: Path) -> None:
    begin(tmp_path).close()
    with pytest.raises(UsageError, match="command = 'detect train', not 'classify fit'"):
        RunFolder.open(tmp_path, "classify fit", CONFIG, 0)


def test_fresh_forgets_the_stages_only(tmp_path: Path) -> None:
    with begin(tmp_path) as run, run.stage("features"):
        run.mark_done("features")
    (tmp_path / "notes.txt").write_text("mine")
    with begin(tmp_path, CONFIG | {"backbone": "alexnet"}, fresh=True) as run:
        assert not run.resumed
        assert not run.is_done("features")
        assert run.seconds() == {}
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_kill_between_forgetting_and_recording_cannot_mix_runs(tmp_path: Path) -> None:
    """Stages without a run.json belong to nothing known: they are dropped."""
    with begin(tmp_path) as run:
        run.mark_done("features")
    (tmp_path / "run.json").unlink()
    with begin(tmp_path, CONFIG | {"backbone": "alexnet"}) as run:
        assert not run.is_done("features")


def test_changed_surroundings_are_told(tmp_path: Path) -> None:
    begin(tmp_path).close()
    record = json.loads((tmp_path / "run.json").read_text())
    record["threads"] = 64
    record["versions"]["torch"] = "0.1"
    (tmp_path / "run.json").write_text(json.dumps(record))
    with begin(tmp_path) as run:
        assert [change.split(" ")[0] for change in run.changes] == ["threads", "versions.torch"]
        assert run.changes[0].startswith("threads was 64, is ")
    with begin(tmp_path) as run:
        assert run.changes == ()


def test_seconds_add_up_and_survive_errors(tmp_path: Path) -> None:
    with begin(tmp_path) as run, run.stage("svm"):
        time.sleep(0.02)
    with begin(tmp_path) as run:
        with pytest.raises(KeyboardInterrupt), run.stage("svm"):
            interrupted_after(0.02)
        assert 0.04 <= run.seconds()["svm"] < 1
    assert json.loads((tmp_path / "stages.json").read_text())["seconds"]["svm"] >= 0.04


def interrupted_after(seconds: float) -> None:
    time.sleep(seconds)
    raise KeyboardInterrupt


def test_stages_without_a_folder() -> None:
    stages = Stages()
    with stages.stage("a"), stages.stage("b"):
        pass
    stages.mark_done("a")
    assert list(stages.seconds()) == ["b", "a"]
    assert stages.is_done("a")
    assert not stages.is_done("b")


@pytest.mark.parametrize("name", ["run.json", "stages.json"])
@pytest.mark.parametrize("data", [b"", b"[]", b'{"seconds": 3}', b"\x00" * 100, b"{"])
def test_damaged_records_are_refused_and_fresh_helps(
    tmp_path: Path, name: str, data: bytes
) -> None:
    with begin(tmp_path) as run:
        run.mark_done("features")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnusableFileError) as caught:
        begin(tmp_path)
    assert caught.value.path == tmp_path / name
    begin(tmp_path, fresh=True).close()


# --- one owner --------------------------------------------------------------------------------


def test_second_process_is_told_who_works_here(tmp_path: Path) -> None:
    code = (
        "import sys; from sppnet.storage import RunFolder\n"
        "run = RunFolder.open(sys.argv[1], 'toy', {}, 0)\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(OutputError, match=f"another process \\({other.pid}\\)") as caught:
            RunFolder.open(tmp_path, "toy", {}, 0)
        assert caught.value.code == "E_LOCKED"
        other.kill()
    with RunFolder.open(tmp_path, "toy", {}, 0) as run:  # its death freed the lock
        assert run.resumed
        with pytest.raises(OutputError, match=str(os.getpid())):
            RunFolder.open(tmp_path, "toy", {}, 0)
    run.close()


def test_unwritable_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for bad in ("file", "file/run", "nul\0"):
        with pytest.raises(OutputError):
            begin(tmp_path / bad)
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    with pytest.raises(OutputError):
        begin(tmp_path / "run")


def test_full_disk(tmp_path: Path) -> None:
    with begin(tmp_path) as run:
        run.mark_done("a")
        with file_size_limit(10), pytest.raises(OutputError, match="EFBIG"):
            run.mark_done("b")
        assert json.loads((tmp_path / "stages.json").read_text())["done"] == ["a"]
    with file_size_limit(1), pytest.raises(OutputError):
        begin(tmp_path / "new")
    with begin(tmp_path / "new") as run:
        assert not run.resumed


@pytest.mark.parametrize(
    ("arguments", "clean"),
    [
        ([], []),
        (["--seed", "3"], ["--seed", "3"]),
        (["--token", "x", "y"], ["--token", "***", "y"]),
        (["--hf-token=x"], ["--hf-token=***"]),
        (["--password", "--verbose"], ["--password", "--verbose"]),
        (["https://me:pass@host/a.jpg"], ["https://***@host/a.jpg"]),
    ],
)
def test_secrets_are_left_out(arguments: list[str], clean: list[str]) -> None:
    assert arguments_without_secrets(arguments) == clean


def test_a_folder_with_a_run_of_another_command_is_refused(tmp_path: Path) -> None:
    begin(tmp_path / "run").close()
    assert holds_run_of("detect train", tmp_path / "run", "the demo")
    assert not holds_run_of("detect train", tmp_path / "none", "the demo")
    with pytest.raises(UsageError, match="'detect train'; choose another folder for the demo"):
        holds_run_of("demo", tmp_path / "run", "the demo")
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(UsageError, match="a run of None"):
        holds_run_of("demo", tmp_path / "run", "the demo")


def test_what_belongs_to_old_data_goes_with_it_or_the_run_does_not_begin(tmp_path: Path) -> None:
    begin(tmp_path).close()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a").touch()
    (tmp_path / "stages.json").mkdir()
    with pytest.raises(OutputError) as caught:
        begin(tmp_path, fresh=True, state=["state"])
    assert caught.value.path == tmp_path / "stages.json"
    (tmp_path / "stages.json").rmdir()
    begin(tmp_path, fresh=True, state=["state", "no such state"]).close()
    assert not (tmp_path / "state").exists()
    (tmp_path / "state").touch()  # no folder
    with pytest.raises(OutputError) as caught:
        begin(tmp_path, fresh=True, state=["state"])
    assert caught.value.path == tmp_path / "state"


def test_threads_of_a_run_are_those_that_torch_will_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for asked, threads in (("7", 7), ("x", os.cpu_count()), ("", os.cpu_count())):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert environment()["threads"] == threads
