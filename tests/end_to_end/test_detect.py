"""``sppnet detect`` from drawn photos to boxes on them, with bad files among the good ones."""

import csv
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image

from html_checks import check_page
from spoiled_sets import draw_spoiled_set, hash_files
from sppnet import Detector
from sppnet.app.main import main
from sppnet.backbones import build_backbone
from sppnet.images import draw_detection_set

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = [
    *("--backbone", "small5", "--weights", "none", "--proposals", "grid", "--imgsz", "160"),
    *("--max-anchors", "40", "--mirror", "off", "--crops", "off"),
]
FEW = ["--max-proposals", "150"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_detection_set(tmp_path_factory.mktemp("drawn") / "data", 20, seed=0)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    words = ["detect", "train", str(data), *SMALL, *FEW, "--keep-cache"]
    assert main([*words, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def scored(data: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "val"
    words = ["detect", "val", str(run / "model"), str(data), "--split", "train"]
    assert main([*words, "--out", str(out)]) == 0
    return out


def _json(path: Path) -> dict:
    return json.loads(path.read_text())


def _errors(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if "error:" in line]


def test_train_leaves_a_model_and_its_figures(run: Path) -> None:
    assert {path.name for path in (run / "model").iterdir()} >= {
        "model.safetensors",
        "config.json",
        "manifest.json",
    }
    metrics = _json(run / "metrics.json")
    stages = ["proposals", "features", "anchors", "objects", "svm", "boxes", "operating point"]
    stages += ["save", "total"]
    assert list(metrics["seconds"]) == stages
    assert all(value >= 0 for value in metrics["seconds"].values())
    parts = sum(metrics["seconds"][name] for name in stages[:-1])
    assert metrics["seconds"]["total"] == pytest.approx(parts)
    assert metrics["images"] == 14
    assert metrics["settings"]["backbone"] == "small5"
    assert metrics["problems"] == []
    assert _json(run / "run.json")["seed"] == 0


def test_val_leaves_figures_and_a_report(scored: Path) -> None:
    metrics = _json(scored / "metrics.json")
    for name in ("ap50", "ap75", "ap", "ap50_voc07"):
        assert 0 <= metrics[name] <= 1
    assert metrics["ap50"] > 0.5  # on what it was trained on
    assert metrics["ap50"] >= metrics["ap75"]
    assert len(metrics["per_class"]) >= 5
    assert 0 < metrics["seconds_per_image"] < 60
    assert set(metrics["seconds_per_stage"]) == {"decode", "proposals", "features", "windows"}
    page = (scored / "report.html").read_text()
    check_page(page)
    assert page.count("data:image/jpeg;base64") >= 2


def test_val_on_a_split_that_was_not_seen(data: Path, run: Path, tmp_path: Path, capsys) -> None:
    words = ["detect", "val", str(run / "model"), str(data), "--out", str(tmp_path / "val")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "report.html" in printed
    assert "mean" in printed
    assert _json(tmp_path / "val" / "metrics.json")["images"] == 6


def test_val_takes_finished_images_from_its_cache(
    data: Path, run: Path, scored: Path, monkeypatch
) -> None:
    before = _json(scored / "metrics.json")

    def refuse(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(Detector, "detect", refuse)
    words = ["detect", "val", str(run / "model"), str(data), "--split", "train"]
    assert main([*words, "--out", str(scored)]) == 0
    assert _json(scored / "metrics.json") == before
    assert main([*words, "--out", str(scored), "--fresh"]) == 1  # it did try


def test_other_constants_of_testing_and_other_proposals_are_computed_again(
    data: Path, run: Path, tmp_path: Path
) -> None:
    photo, out = next((data / "JPEGImages").iterdir()), tmp_path / "found"
    np.savez(tmp_path / "one.npz", **{photo.name: np.array([[5.0, 5.0, 60.0, 60.0]])})
    words = ["detect", "predict", str(run / "model"), str(photo), "--out", str(out)]
    found = []
    for more in ([], ["--max-detections", "2"], ["--proposals", str(tmp_path / "one.npz")], []):
        assert main([*words, *more]) == 0
        found.append(_json(out / "detections.json"))
    assert found[0] == found[3]
    assert len(found[1]) == 2 < len(found[0])
    assert found[2] != found[0]


def test_second_training_has_nothing_to_do(data: Path, run: Path, capsys, monkeypatch) -> None:
    before = hash_files(run / "model")

    def refuse(*args, **options):
        raise AssertionError("computed again")

    monkeypatch.setattr("sppnet.app.detect.train.train_detector", refuse)
    assert main(["detect", "train", str(data), *SMALL, *FEW, "--out", str(run)]) == 0
    assert "holds a finished run" in capsys.readouterr().err
    assert hash_files(run / "model") == before


def test_lost_model_is_trained_again_from_the_cache(
    data: Path, run: Path, tmp_path: Path, monkeypatch
) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "model")

    def refuse(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr("sppnet.detection.feature_set.decode_content", refuse)
    assert main(["detect", "train", str(data), *SMALL, *FEW, "--out", str(copy)]) == 0
    first, second = (each / "model" / "model.safetensors" for each in (run, copy))
    assert first.read_bytes() == second.read_bytes()


def test_other_settings_in_the_same_folder_are_refused(data: Path, run: Path, capsys) -> None:
    words = ["detect", "train", str(data), *SMALL, "--max-proposals", "151", "--out", str(run)]
    assert main(words) == 2
    assert "max_proposals" in _errors(capsys)[0]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--proposals", "edges"],
        ["--imgsz", "0"],
        ["--imgsz", "wide"],
        ["--levels", "0"],
        ["--levels", ""],
        ["--backbone", "resnet"],
        ["--layer", "nowhere"],
        ["--weights", "missing.safetensors"],
        ["--max-proposals", "0"],
        ["--device", "cuda:99"],
        ["--split", "nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_words_end_in_one_line(data: Path, tmp_path: Path, capsys, wrong: list[str]) -> None:
    words = ["detect", "train", str(data), *SMALL, *FEW, *wrong, "--out", str(tmp_path / "run")]
    expected = {"--weights": (2, 5), "--split": (2, 4, 5)}.get(wrong[0], (2,))
    assert main(words) in expected
    (line,) = _errors(capsys)
    assert "bug" not in line
    assert not (tmp_path / "run" / "model").exists()


def test_settings_file_says_the_same_as_flags(data: Path, run: Path, tmp_path: Path) -> None:
    config = tmp_path / "small.toml"
    config.write_text(
        'backbone = "small5"\nweights = "none"\nproposals = "grid"\n'
        "imgsz = [160]\nmax_proposals = 150\n"
        'max_anchors = 40\nmirror = "off"\ncrops = "off"\n'
    )
    words = ["detect", "train", str(data), "--config", str(config), "--out", str(tmp_path / "run")]
    assert main([*words, "--cache", str(run / "cache")]) == 0
    first, second = (each / "model" / "model.safetensors" for each in (run, tmp_path / "run"))
    assert first.read_bytes() == second.read_bytes()
    assert not (tmp_path / "run" / "cache").exists()


def test_dry_runs_write_nothing(data: Path, run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    before = hash_files(run)
    image = str(next((data / "JPEGImages").iterdir()))
    assert main(["detect", "train", str(data), *SMALL, "--dry-run", "--out", str(out)]) == 0
    planned = capsys.readouterr()
    assert "14 images" in planned.out
    assert "feature maps" in planned.out
    assert "proposals" in planned.err
    model = str(run / "model")
    assert main(["detect", "val", model, str(data), "--dry-run", "--out", str(out)]) == 0
    assert "6 images" in capsys.readouterr().out
    assert main(["detect", "predict", model, image, "--dry-run", "--out", str(out)]) == 0
    assert "look at 1 image in" in capsys.readouterr().out
    assert not out.exists()
    assert hash_files(run) == before


@pytest.fixture(scope="module")
def mixture(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files, a folder, a pattern, twins of one stem, and one file that is no image."""
    folder = tmp_path_factory.mktemp("mixture")
    photos = sorted((data / "JPEGImages").iterdir())
    for place, photo in {
        "single.jpg": photos[0],
        "folder/scene.jpg": photos[1],
        "folder/deep/scene.png": photos[2],
        "pattern/p1.jpg": photos[3],
        "pattern/p2.jpg": photos[4],
    }.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(photo) as picture:
            picture.save(path)
    Image.new("RGB", (1, 1)).save(folder / "folder" / "dot.png")
    (folder / "folder" / "bad.jpg").write_text("this is no image")
    (folder / "pattern" / "other.txt").write_text("not asked for")
    return folder


@pytest.fixture(scope="module")
def predicted(mixture: Path, run: Path, tmp_path_factory: pytest.TempPathFactory):
    """The command in a process of its own."""
    out = tmp_path_factory.mktemp("predicted") / "out"
    sources = [mixture / "single.jpg", mixture / "folder", mixture / "pattern" / "p*.jpg"]
    command = [sys.executable, "-m", "sppnet", "detect", "predict", run / "model", *sources]
    ending = subprocess.run(
        [*command, "--threads", "1", "--out", out],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "400"},
        check=False,
    )
    return out, ending


def test_predict_goes_on_after_a_bad_image(predicted) -> None:
    _, ending = predicted
    assert ending.returncode == 3, ending.stderr
    (line,) = [line for line in ending.stderr.splitlines() if "error:" in line]
    assert "bad.jpg" in line
    assert "6 of 7 inputs done, 1 failed" in ending.stderr
    assert "in 6 images" in ending.stdout
    assert "Traceback" not in ending.stderr


def test_predict_leaves_json_csv_and_pictures_that_agree(predicted, mixture: Path) -> None:
    out, _ = predicted
    files = {"single.jpg", "folder/scene.jpg", "folder/deep/scene.png", "folder/dot.png"}
    files |= {"pattern/p1.jpg", "pattern/p2.jpg"}
    found = _json(out / "detections.json")
    assert {entry["file"] for entry in found} <= files
    ids = {entry["file"]: entry["image_id"] for entry in found}
    assert (ids["folder/scene.jpg"], ids["single.jpg"]) == ("folder/scene", "single")
    overlays = [path for path in (out / "overlays").rglob("*") if path.is_file()]
    for path in overlays:
        with Image.open(path) as picture:
            picture.verify()
    drawn = {path.relative_to(out / "overlays").with_suffix("").as_posix() for path in overlays}
    assert drawn == {name.rpartition(".")[0] for name in files}
    rows, counts = _table(out / "detections.csv"), _table(out / "counts.csv")
    counted = [entry for entry in found if entry["above_threshold"]]
    assert [row["file"] for row in rows] == [entry["file"] for entry in counted]
    assert {row["file"]: row["total"] for row in counts} == {
        "folder/bad.jpg": "",
        **{name: str(sum(row["file"] == name for row in rows)) for name in files},
    }
    assert all(f"overlays/{name}.jpg" in (out / "index.html").read_text() for name in drawn)
    with Image.open(mixture / "single.jpg") as picture:
        single_wh = picture.size
    for entry in found:
        x, y, width, height = entry["bbox"]
        assert min(x, y) >= 0
        assert min(width, height) > 0
        if entry["file"] == "single.jpg":
            assert x + width <= single_wh[0] + 0.01
            assert y + height <= single_wh[1] + 0.01


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_twins_get_their_own_detections(predicted, mixture: Path, run: Path) -> None:
    out, _ = predicted
    detector = Detector.load(run / "model")
    found = _json(out / "detections.json")
    best = {
        name: max(e["score"] for e in found if e["file"] == name)
        for name in ("folder/scene.jpg", "folder/deep/scene.png")
    }
    expected = {
        float(detector.predict(mixture / "folder" / place).scores[0])
        for place in ("scene.jpg", "deep/scene.png")
    }
    assert sorted(best.values()) == pytest.approx(sorted(expected), abs=1e-4)


def test_second_prediction_comes_from_the_cache(predicted, mixture, run, monkeypatch) -> None:
    out, _ = predicted
    before = {name: (out / name).read_bytes() for name in ("detections.json", "detections.csv")}

    def refuse(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(Detector, "detect", refuse)
    sources = [mixture / "single.jpg", mixture / "folder", mixture / "pattern" / "p*.jpg"]
    assert (
        main(["detect", "predict", str(run / "model"), *map(str, sources), "--out", str(out)]) == 3
    )
    assert {name: (out / name).read_bytes() for name in before} == before


def test_predictions_can_be_scored(data: Path, run: Path, scored: Path, tmp_path: Path) -> None:
    train = (data / "ImageSets" / "Main" / "train.txt").read_text().split()
    photos = [str(data / "JPEGImages" / f"{stem}.jpg") for stem in train]
    out = tmp_path / "out"
    words = ["--score-threshold", "-1.5", "--out", str(out)]
    assert main(["detect", "predict", str(run / "model"), *photos, *words]) == 0
    result = tmp_path / "score.json"
    words = ["evaluate", str(data), str(out / "detections.json"), "--split", "train"]
    assert main([*words, "--metric", "voc10", "--iou", "0.5", "--json", str(result)]) == 0
    # predict reports everything that val scores, rounded to a few digits
    expected = _json(scored / "metrics.json")["ap50"]
    assert _json(result)["mean_ap"] == pytest.approx(expected, abs=0.02)


def test_predict_with_nothing_usable(mixture: Path, run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    for source in ("folder/bad.jpg", "no/such/file.jpg", "nothing*.jpg"):
        words = ["detect", "predict", str(run / "model"), str(mixture / source)]
        assert main([*words, "--out", str(out)]) == 4
        assert source.split("/")[-1] in capsys.readouterr().err
    assert not (out / "detections.json").exists()


def test_predict_without_detections_still_leaves_files(
    mixture: Path, run: Path, tmp_path: Path
) -> None:
    words = ["detect", "predict", str(run / "model"), str(mixture / "single.jpg")]
    assert main([*words, "--score-threshold", "9", "--out", str(tmp_path / "out")]) == 0
    assert _json(tmp_path / "out" / "detections.json") == []
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 1


def test_image_that_vanishes_in_between_is_one_failure(
    mixture: Path, run: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    import shutil

    shutil.copytree(mixture / "pattern", tmp_path / "photos")
    detect_prediction = import_module("sppnet.app.detect.predict")  # its command has that name, too
    listed = detect_prediction.list_images

    def list_then_lose(sources, out):
        listing = listed(sources, out)
        (tmp_path / "photos" / "p1.jpg").unlink()
        return listing

    monkeypatch.setattr(detect_prediction, "list_images", list_then_lose)
    words = ["detect", "predict", str(run / "model"), str(tmp_path / "photos" / "p*.jpg")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 3
    (line,) = _errors(capsys)
    assert "p1.jpg" in line


def test_faults_of_a_data_set_are_named_once_and_the_rest_is_used(tmp_path: Path, capsys) -> None:
    data, faults = draw_spoiled_set(tmp_path / "data", 16)
    before = hash_files(data)
    words = ["detect", "train", str(data), *SMALL, "--max-proposals", "40"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 3
    lines = _errors(capsys)
    for fault, path in faults.items():
        assert len([line for line in lines if path.stem in line]) == 1, fault
    assert len(lines) == len(faults)
    metrics = _json(tmp_path / "run" / "metrics.json")
    assert metrics["images"] == 11 - 3
    assert len(metrics["problems"]) == 4

    assert main([*words, "--out", str(tmp_path / "run")]) == 3  # as before, though nothing is done
    err = capsys.readouterr().err
    assert all(path.stem in err for path in faults.values())

    words = ["detect", "val", str(tmp_path / "run" / "model"), str(data), "--split", "train"]
    assert (
        main([*words, "--out", str(tmp_path / "val"), "--dry-run"]) == 0
    )  # nothing was to be done
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "val")]) == 3
    lines = _errors(capsys)
    for fault, path in faults.items():
        assert len([line for line in lines if path.stem in line]) == 1, fault
    assert _json(tmp_path / "val" / "metrics.json")["images"] == 8
    assert hash_files(data) == before


def test_val_on_other_class_names(data: Path, run: Path, tmp_path: Path, capsys) -> None:
    import shutil

    def rename(folder: Path, names: dict[str, str]) -> Path:
        shutil.copytree(data, folder)
        for path in (folder / "Annotations").iterdir():
            text = path.read_text()
            for old, new in names.items():
                text = text.replace(f"<name>{old}</name>", f"<name>{new}</name>")
            path.write_text(text)
        return folder

    model = str(run / "model")
    names = Detector.load(run / "model").names
    some = rename(tmp_path / "some", {names[0]: "unicorn"})
    assert main(["detect", "val", model, str(some), "--out", str(tmp_path / "a")]) == 3
    assert "unicorn" in capsys.readouterr().err
    every = rename(tmp_path / "every", {name: f"other-{name}" for name in names})
    assert main(["detect", "val", model, str(every), "--out", str(tmp_path / "b")]) in (3, 4)
    assert "bug" not in capsys.readouterr().err


def test_no_input_is_changed(data: Path, tmp_path: Path) -> None:
    before = hash_files(data)
    run, model = tmp_path / "run", str(tmp_path / "run" / "model")
    words = ["detect", "train", str(data), *SMALL, "--max-proposals", "60", "--out", str(run)]
    # with these the random trunk finds enough for an operating point
    finds = ["--levels", "1,2,3,6", "--box-strength", "4000", "--box-agnostic", "off"]
    assert main([*words, *finds, "--box-bins", "cells"]) == 0
    trained = hash_files(run / "model")
    words = ["detect", "val", model, str(data), "--out", str(tmp_path / "val")]
    assert main([*words, "--no-keep"]) == 0
    photos = str(data / "JPEGImages")
    assert main(["detect", "predict", model, photos, "--out", str(tmp_path / "out")]) == 0
    assert hash_files(run / "model") == trained
    old = Detector.load(model)
    assert main(words) == 0  # it keeps what it found in the model, and nothing else is another
    new = Detector.load(model)
    assert new.operating_points.source == "val"
    assert new.config() == old.config()
    assert all(torch.equal(new.tensors()[name], each) for name, each in old.tensors().items())
    assert hash_files(data) == before


def test_a_set_without_empty_photos_is_told_so(data: Path, tmp_path: Path, capsys) -> None:
    photos = copytree(data, tmp_path / "photos")
    # with these the random trunk finds enough for an operating point
    finds = ["--levels", "1,2,3,6", "--box-strength", "4000", "--box-agnostic", "off"]
    words = ["detect", "train", str(photos), *SMALL, "--max-proposals", "60", *finds]
    assert main([*words, "--box-bins", "cells", "--out", str(tmp_path / "all")]) == 0
    assert "every photo shows a thing" in capsys.readouterr().out
    labels = min((photos / "Annotations").iterdir())
    labels.write_text(re.sub(r"<object>.*</object>", "", labels.read_text(), flags=re.DOTALL))
    assert main([*words, "--box-bins", "cells", "--out", str(tmp_path / "one")]) == 0
    assert "every photo shows a thing" not in capsys.readouterr().out


def test_output_that_cannot_be_written_is_said_first(data: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("in the way")
    words = ["detect", "train", str(data), *SMALL, "--out", str(tmp_path / "file" / "run")]
    assert main(words) == 6
    assert str(tmp_path / "file") in _errors(capsys)[0]


def test_trained_weights_come_without_a_network(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    trunk = [
        "--backbone",
        "efficientnet_lite0",
        "--imgsz",
        "96",
        "--mirror",
        "off",
        "--crops",
        "off",
    ]
    words = ["detect", "train", str(data), *trunk, "--proposals", "grid", "--max-proposals", "20"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    trained = Detector.load(tmp_path / "run" / "model").encoder.backbone
    installed = build_backbone("efficientnet_lite0", "DEFAULT")
    pairs = trained.parameters(), installed.parameters()
    assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))


@pytest.mark.slow
def test_raccoons_are_found(shared_data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(shared_data / "weights" / "torch_home"))
    photos, run = str(shared_data / "raccoon"), str(tmp_path / "run")
    torch.set_num_threads(2)
    words = ["--backbone", "squeezenet1_1", "--weights", "DEFAULT", "--seed", "0"]
    assert main(["detect", "train", photos, "--split", "train", *words, "--out", run]) == 0
    model, out = f"{run}/model", tmp_path / "val"
    assert main(["detect", "val", model, photos, "--split", "test", "--out", str(out)]) == 0
    assert _json(out / "metrics.json")["ap50"] >= 0.90
