"""A model folder is loaded whole and unchanged, or refused with the file and the rule."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resigned_models import make_classifier, make_detector
from sppnet.errors import OutputError, UnusableFileError
from sppnet.storage import files, is_model, load_model, models, read_kind, restore_model, save_model
from sppnet.storage.models import manifest_text, read_answers
from sppnet.storage.tensors import tensors_to_bytes
from storage_faults import (
    fail_call,
    failure_of,
    file_size_limit,
    lie_once,
    names_in,
    without_root,
)

CONFIG = {"names": ["cat", "é\n"], "levels": [1, 2], "lambda": 1e-3, "none": None, "deep": {"a": 1}}
TENSORS = {"svm.weight": torch.tensor([[0.5, -0.0, 3.0]]), "steps": torch.tensor([7])}
FILES = ["config.json", "manifest.json", "model.safetensors"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", "toy", CONFIG, TENSORS)
    return tmp_path / "model"


def index_in(folder: Path) -> int:
    return load_model(folder, "toy")[0]["index"]


def hand_made(folder: Path, tensors: bytes, kind: str = "toy") -> Path:
    """A folder whose manifest is right, whatever the tensors are."""
    folder.mkdir()
    files = {"model.safetensors": tensors, "config.json": b"{}"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_text(manifest_text(kind, files))
    return folder


def test_comes_back_as_it_was(model: Path) -> None:
    config, tensors = load_model(model, "toy")
    assert config == CONFIG
    assert tensors.keys() == TENSORS.keys()
    for name in TENSORS:
        assert tensors[name].dtype == TENSORS[name].dtype
        assert torch.equal(tensors[name], TENSORS[name])
    assert names_in(model) == FILES
    assert names_in(model.parent) == ["model"]


def test_every_tensor_begins_where_torch_lets_its_own_begin(tmp_path: Path) -> None:
    # products of a vector with a matrix of one column depend on it in their last bits
    save_model(tmp_path / "m", "toy", {}, {f"t{n}": torch.rand(n) for n in range(1, 60)})
    _, tensors = load_model(tmp_path / "m", "toy")
    assert {name: each.data_ptr() % 64 for name, each in tensors.items()} == dict.fromkeys(
        tensors, 0
    )


def test_same_content_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "b", "toy", CONFIG, dict(reversed(TENSORS.items())))
    for name in FILES:
        assert (model / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_replaces_an_older_model(model: Path) -> None:
    save_model(model, "toy", {"index": 2}, {"other": torch.ones(2)})
    assert index_in(model) == 2
    assert load_model(model, "toy")[1].keys() == {"other"}
    assert names_in(model.parent) == ["model"]


def test_moves_with_its_folder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("model")
    save_model(tmp_path / "link", "toy", {"index": 3}, {})
    assert (tmp_path / "link").is_symlink()
    shutil.copytree(model, tmp_path / "copy")
    assert index_in(tmp_path / "copy") == 3


# --- damage -----------------------------------------------------------------------------------


# Every third bit is of every byte, and of each place in a byte; all of them are for longer runs.
STEPS = [3, pytest.param(1, marks=pytest.mark.slow)]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_refused(tmp_path: Path, name: str, step: int) -> None:
    model = tmp_path / "model"
    save_model(model, "toy", {"names": ["a"]}, {"w": torch.tensor([0.5])})
    whole = (model / name).read_bytes()
    for position in range(0, len(whole) * 8, step):
        torn = bytearray(whole)
        torn[position // 8] ^= 1 << position % 8
        (model / name).write_bytes(torn)
        with pytest.raises(UnusableFileError) as caught:
            load_model(model, "toy")
        assert caught.value.exit_code == 5
        assert caught.value.path == model / name
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused(model: Path, name: str) -> None:
    whole = (model / name).read_bytes()
    for size in range(len(whole)):
        (model / name).write_bytes(whole[:size])
        with pytest.raises(UnusableFileError):
            load_model(model, "toy")
    (model / name).write_bytes(whole + b" ")
    with pytest.raises(UnusableFileError):
        load_model(model, "toy")


@pytest.mark.parametrize("name", FILES)
def test_missing_files_and_folders_in_their_place(model: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(UnusableFileError, match="does not exist") as caught:
        load_model(model, "toy")
    assert caught.value.path == model / name
    (model / name).mkdir()
    with pytest.raises(UnusableFileError, match="not a regular file"):
        load_model(model, "toy")


def test_no_folder_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"weights")
    for bad in ("missing", "file", "."):
        with pytest.raises(UnusableFileError, match=r"manifest\.json"):
            load_model(tmp_path / bad, "toy")


def test_another_kind_or_version(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableFileError, match="a 'toy'; a 'detector' is needed"):
        load_model(model, "detector")
    newer = json.loads((model / "manifest.json").read_text()) | {"version": 2}
    (model / "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(UnusableFileError, match="changed"):
        load_model(model, "toy")
    (model / "manifest.json").write_text("[]")
    with pytest.raises(UnusableFileError, match="not a manifest"):
        load_model(model, "toy")


def test_kind_is_read_from_a_whole_manifest_only(model: Path) -> None:
    assert read_kind(model) == "toy"
    model.rename(model.with_name(".model.previous"))  # killed between the two renames of a save
    assert read_kind(model) == "toy"
    assert not is_model(model)
    model.with_name(".model.previous").rename(model)
    assert is_model(model)
    (model / "manifest.json").write_bytes((model / "manifest.json").read_bytes()[:-1])
    with pytest.raises(UnusableFileError, match="changed"):
        read_kind(model)


def test_parts_that_do_not_fit_are_a_fault_of_the_folder(model: Path) -> None:
    names = restore_model(model, "toy", lambda config, tensors: (config["names"], set(tensors)))
    assert names == (CONFIG["names"], set(TENSORS))
    with pytest.raises(
        UnusableFileError, match="saved toy does not fit together: 'gone'"
    ) as caught:
        restore_model(model, "toy", lambda config, _: config["gone"])
    assert (caught.value.path, caught.value.code) == (model, "E_WEIGHTS_ARCH")
    with pytest.raises(ZeroDivisionError):  # a mistake of the caller stays one
        restore_model(model, "toy", lambda *_: 1 / 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    tensors = {"good": torch.ones(3), "bad one": torch.tensor([1, value], dtype=dtype)}
    folder = hand_made(tmp_path / "model", tensors_to_bytes(tensors))
    with pytest.raises(UnusableFileError, match="'bad one' holds NaN or infinity") as caught:
        load_model(folder, "toy")
    assert caught.value.code == "E_WEIGHTS_NAN"
    with pytest.raises(ValueError, match=r"finite.*'bad one'"):
        save_model(tmp_path / "new", "toy", {}, tensors)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04",
        (2**40).to_bytes(8, "little") + b"{}",
        tensors_to_bytes({"w": torch.ones(4)})[:-1],
        (81).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'.ljust(81, b" "),
        (110).to_bytes(8, "little")
        + (
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        ).ljust(110, b" ")
        + bytes(4),
    ],
    ids=["empty", "pickle", "zip", "huge header", "cut", "bad header", "overlap"],
)
def test_other_formats_with_a_right_manifest(tmp_path: Path, data: bytes) -> None:
    folder = hand_made(tmp_path / "model", data)
    with pytest.raises(UnusableFileError, match="safetensors") as caught:
        load_model(folder, "toy")
    assert caught.value.code == "E_WEIGHTS_FORMAT"
    assert "\n" not in str(caught.value)


# --- what cannot be saved ---------------------------------------------------------------------


@pytest.mark.parametrize("config", [{"a": float("nan")}, {"a": [{"b": (1, -float("inf"))}]}])
def test_config_must_be_finite(tmp_path: Path, config: dict) -> None:
    with pytest.raises(ValueError, match=r"config\['a'\].* must be finite"):
        save_model(tmp_path / "model", "toy", config, {})


def test_config_must_fit_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_model(tmp_path / "model", "toy", {"a": torch.ones(1)}, {})
    assert names_in(tmp_path) == []


def test_a_folder_with_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", "toy", {}, {})  # an empty one is
    (tmp_path / "model" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds 'thesis\.tex'.*another folder"):
        save_model(tmp_path / "model", "toy", {}, {})
    assert (tmp_path / "model" / "thesis.tex").read_text() == "years of work"


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for bad in ("file", "file/model", "nul\0"):
        with pytest.raises(OutputError) as caught:
            save_model(tmp_path / bad, "toy", {}, {})
        assert caught.value.exit_code == 6
    (tmp_path / "closed").mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    with without_root(), pytest.raises(OutputError):
        save_model(tmp_path / "closed" / "model", "toy", {}, {})


def test_full_disk_keeps_the_old_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_model(model, "toy", {"index": 1}, {})
    tensors = {"w": torch.zeros(10_000)}
    with file_size_limit(2000), pytest.raises(OutputError, match="EFBIG") as caught:
        save_model(model, "toy", {"index": 2}, tensors)
    assert "model/model.safetensors" in str(caught.value)
    assert index_in(model) == 1
    assert names_in(tmp_path) == ["model"]
    save_model(model, "toy", {"index": 2}, tensors)
    assert index_in(model) == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_any_call_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    model = tmp_path / "model"
    for k in range(1, 200):
        save_model(model, "toy", {"index": 1}, TENSORS)
        with monkeypatch.context() as patch:
            fired = fail_call(patch, k, code)
            error = failure_of(lambda: save_model(model, "toy", {"index": 2}, TENSORS))
        assert errno.errorcode[code] in (error or errno.errorcode[code])
        assert index_in(model) in ({1, 2} if error else {2})
        if not fired:
            assert k > 20
            return
    pytest.fail("no end of faults")


def test_a_kill_between_the_two_renames_keeps_the_old_model(model: Path) -> None:
    previous = model.with_name(".model.previous")
    model.rename(previous)
    assert load_model(model, "toy")[0] == CONFIG
    save_model(model, "toy", {"index": 2}, {})
    assert index_in(model) == 2
    assert not previous.exists()


def test_a_kill_before_the_old_one_is_removed_keeps_the_new_model(model: Path) -> None:
    shutil.copytree(model, model.with_name(".model.previous"))
    save_model(model, "toy", {"index": 2}, {})
    assert index_in(model) == 2
    assert names_in(model.parent) == ["model"]


def test_a_file_that_reads_back_differently_is_no_saved_model(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.os, "write", lie_once(b"index", b"INDEX"))
    with pytest.raises(OutputError, match="reads back differently") as caught:
        save_model(model, "toy", {"index": 2}, {})
    assert caught.value.path.parent == model
    monkeypatch.undo()
    assert load_model(model, "toy")[0] == CONFIG
    assert names_in(model.parent) == ["model"]


def test_settings_that_are_no_object_are_refused_although_the_manifest_is_right(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    files = {"model.safetensors": tensors_to_bytes({}), "config.json": b"[]"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_text(manifest_text("toy", files))
    with pytest.raises(UnusableFileError, match="must hold an object") as caught:
        load_model(folder, "toy")
    assert caught.value.path == folder / "config.json"


def test_a_part_that_is_refused_is_said_to_be_of_the_folder(model: Path) -> None:
    def refuse(config: dict, tensors: dict) -> None:
        raise UnusableFileError("holds NaN", code="E_WEIGHTS_NAN")

    with pytest.raises(UnusableFileError, match="holds NaN") as caught:
        restore_model(model, "toy", refuse)
    assert (caught.value.path, caught.value.code) == (model, "E_WEIGHTS_NAN")


def test_what_a_model_said_when_it_was_saved_is_read_from_its_manifest(tmp_path: Path) -> None:
    for name, said in (("with", {"scores": [0.5]}), ("without", None)):
        save_model(tmp_path / name, "toy", {}, {}, answers=said)
        assert read_answers(tmp_path / name) == said
        assert load_model(tmp_path / name, "toy") == ({}, {})
    with pytest.raises(UnusableFileError):
        read_answers(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "most"),
    [("manifest.json", 2**24), ("config.json", 2**24), ("model.safetensors", 2**36)],
)
def test_files_of_impossible_size_are_not_read(model: Path, name: str, most: int) -> None:
    with (model / name).open("r+b") as file:
        file.truncate(most + 1)  # of zeros that take no place on the disk
    with pytest.raises(UnusableFileError, match=f"the limit is {most} ") as caught:
        load_model(model, "toy")
    assert caught.value.code == "E_TOO_LARGE"


def test_a_manifest_of_a_version_to_come_is_said(model: Path) -> None:
    content = json.loads((model / "manifest.json").read_text()) | {"version": 99}
    del content["sha256"]
    (model / "manifest.json").write_text(models._with_checksum(content))
    with pytest.raises(UnusableFileError, match="format 99 is unknown; this version reads"):
        load_model(model, "toy")


def test_an_unfinished_save_of_a_dead_process_is_swept_and_nothing_else(model: Path) -> None:
    for name in ("model", "other"):
        unfinished = model.parent / f".{name}.tmp-{10**30}-0123abcd"
        unfinished.mkdir()
        (unfinished / "config.json").write_text("{}")
    save_model(model, "toy", {"index": 2}, {})
    assert names_in(model.parent) == [unfinished.name, "model"]


PICKLE_IS_AN_ERROR = """
import io, pickle, sys

import torch
from sppnet import Detector
from sppnet.classification import load_classifier

def refuse(event, _):
    if event == "pickle.find_class":
        raise RuntimeError("something is unpickled")

class NoUnpickler:
    def __init__(self, *_, **__):
        raise RuntimeError("something is unpickled")

sys.addaudithook(refuse)
try:
    pickle.loads(pickle.dumps(io.BytesIO))
    raise SystemExit("the hook sees nothing")
except RuntimeError:
    pickle.Unpickler = pickle._Unpickler = pickle.load = pickle.loads = NoUnpickler
    torch.load = NoUnpickler
image = torch.rand(3, 50, 70)
Detector.load(sys.argv[1]).predict(image)
for folder in sys.argv[2:]:
    load_classifier(folder).predict([image])
print("loaded")
"""


def test_nothing_is_unpickled_while_models_are_loaded_and_asked(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("detector", "spp", "transfer", "carried")]
    make_detector("linear").save(folders[0])
    for folder in folders[1:]:
        make_classifier(folder.name).save(folder)
    words = [sys.executable, "-c", PICKLE_IS_AN_ERROR, *map(str, folders)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("loaded\n", 0), done.stderr
