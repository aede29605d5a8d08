"""``sppnet detect val`` and ``predict`` in a folder that was used before: no stale answer."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from option_walk import compare_folders, options_of
from sppnet import Detector
from sppnet.app.detect.predict import OutcomeStore, ReadImage, overlay_names
from sppnet.app.main import main
from sppnet.images import draw_detection_set, load_image

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["--backbone", "small5", "--weights", "none", "--proposals", "grid", "--imgsz", "96"]
# Words that change a result, for every option; {} is a folder with models and files of proposals.
INFERENCE: dict[str, list[str]] = {
    "--proposals": ["--proposals", "graph"],
    "--max-proposals": ["--max-proposals", "30"],
    "--seed": ["--seed", "7"],
    "--max-anchors": ["--max-anchors", "5"],
    "--nms": ["--nms", "soft"],
    "--nms-threshold": ["--nms-threshold", "0.05"],
    "--soft-sigma": ["--nms", "soft", "--soft-sigma", "0.05"],
    "--max-detections": ["--max-detections", "2"],
    "--moved-per-class": ["--moved-per-class", "1"],
    "--vote-overlap": ["--vote-overlap", "0.3"],
    "--flip": ["--flip"],
    "--combine": ["--combine", "{}/other"],
    "--threads": ["--threads", "2"],
    "--max-pixels": ["--max-pixels", "1000000"],
    "--device": ["--device", "cpu"],
    "--fresh": ["--fresh"],
    "--debug": ["--debug"],
    "--dry-run": ["--dry-run"],
}
VAL = INFERENCE | {"--split": ["--split", "train"], "--out": []}
PREDICT = INFERENCE | {
    "--score-threshold": ["--score-threshold", "-0.5"],
    "--show-above": ["--show-above", "-1.5"],
    "--out": [],
}
SAME = {"--threads", "--max-pixels", "--device", "--fresh", "--debug", "--dry-run", "--out"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_detection_set(tmp_path_factory.mktemp("drawn") / "data", 10, seed=0)


@pytest.fixture(scope="module")
def places(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and a folder where each command has run once."""
    folder = tmp_path_factory.mktemp("places")
    for name, seed in (("model", "0"), ("other", "1")):
        words = [*SMALL, "--max-proposals", "60", "--seed", seed, "--out", str(folder / name)]
        assert main(["detect", "train", str(data), *words]) == 0
        (folder / name / "model").rename(folder / "moved")
        (folder / name).rename(folder / f"run-{name}")
        (folder / "moved").rename(folder / name)
    for command in ("val", "predict"):
        for kind in ("used", "base"):
            assert _run(command, data, folder, folder / f"{kind}-{command}") == 0
    return folder


def _run(command: str, data: Path, places: Path, out: Path, *words: str) -> int:
    photos = sorted((data / "JPEGImages").iterdir())[:2]
    sources = [str(data)] if command == "val" else list(map(str, photos))
    words = tuple(word.format(places) for word in words)
    threads, variables = torch.get_num_threads(), dict(os.environ)
    try:
        model = str(places / "model")
        return main(["detect", command, model, *sources, *words, "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(variables)


@pytest.mark.parametrize(("command", "cases"), [("val", VAL), ("predict", PREDICT)])
def test_every_option_is_walked(command: str, cases: dict[str, list[str]]) -> None:
    assert set(options_of("detect", command)) == set(cases)


@pytest.mark.parametrize(
    ("command", "option"), [*(("val", each) for each in VAL), *(("predict", p) for p in PREDICT)]
)
def test_a_used_folder_gives_what_a_fresh_one_gives(
    data: Path, places: Path, tmp_path: Path, command: str, option: str
) -> None:
    words = (VAL if command == "val" else PREDICT)[option]
    used, fresh = places / f"used-{command}", tmp_path / "fresh"
    assert _run(command, data, places, used, *words) == 0
    assert _run(command, data, places, fresh, *words) == 0
    if option != "--dry-run":
        compare_folders(used, fresh)
    if option not in SAME:  # the case does try the option
        with pytest.raises(AssertionError):
            compare_folders(places / f"base-{command}", fresh)


def _found(out: Path) -> Any:
    return json.loads((out / "detections.json").read_text())


def test_content_of_a_proposals_file_counts_and_not_its_name(
    data: Path, places: Path, tmp_path: Path
) -> None:
    photos = [path.name for path in sorted((data / "JPEGImages").iterdir())[:2]]
    file, found = tmp_path / "boxes.npz", []
    for box in ([5.0, 5.0, 60.0, 60.0], [20.0, 10.0, 90.0, 80.0]):
        np.savez(file, **dict.fromkeys(photos, np.array([box])))
        for out in (tmp_path / "used", tmp_path / f"fresh-{box[0]}"):
            assert _run("predict", data, places, out, "--proposals", str(file)) == 0
            found.append(_found(out))
    assert found[0] == found[1]
    assert found[2] == found[3] != found[0]


def test_equal_photos_of_two_names_keep_the_proposals_of_their_names(
    data: Path, places: Path, tmp_path: Path
) -> None:
    photo = next((data / "JPEGImages").iterdir()).read_bytes()
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).write_bytes(photo)
    one, two = np.array([[5.0, 5.0, 60.0, 60.0]]), np.array([[20.0, 10.0, 90.0, 80.0]])
    np.savez(tmp_path / "boxes.npz", **{"one.jpg": one, "two.jpg": two})
    model, out = str(places / "model"), tmp_path / "out"
    words = ["detect", "predict", model, str(tmp_path / "*.jpg"), "--proposals"]
    more = ["--score-threshold", "-10", "--max-anchors", "1", "--out", str(out)]
    assert main([*words, str(tmp_path / "boxes.npz"), *more]) == 0
    scores = {
        name: [each["score"] for each in _found(out) if each["image_id"] == name]
        for name in ("one", "two")
    }
    assert scores["one"] != scores["two"]


def test_another_model_in_the_same_place_is_asked(data: Path, places: Path, tmp_path: Path) -> None:
    detector, other = (Detector.load(places / name) for name in ("model", "other"))
    for each, out in ((detector, "used"), (other, "used"), (other, "fresh")):
        each.save(tmp_path / "model")
        assert _run("predict", data, tmp_path, tmp_path / out) == 0
    compare_folders(tmp_path / "used", tmp_path / "fresh")


def test_another_version_of_the_package_computes_again(
    data: Path, places: Path, tmp_path: Path, monkeypatch
) -> None:
    detector, image = Detector.load(places / "model"), ReadImage.of(next(data.rglob("*.jpg")))
    before = OutcomeStore(tmp_path, detector).detect(image)
    monkeypatch.setattr("sppnet.storage.cache._software", lambda: (("sppnet", "9.9"),))
    store = OutcomeStore(tmp_path, detector)
    assert torch.equal(store.detect(image).detections.boxes, before.detections.boxes)
    assert store.cache.misses == 1


def test_the_bytes_that_are_hashed_are_those_that_are_decoded_and_drawn(
    data: Path, places: Path, tmp_path: Path, monkeypatch
) -> None:
    """A file that is exchanged as soon as it was read gives the boxes and picture of one photo."""
    first, second = (path.read_bytes() for path in sorted((data / "JPEGImages").iterdir())[:2])
    photo = tmp_path / "photo.jpg"
    _exchange_when_read(monkeypatch, photo, second)
    photo.write_bytes(first)
    words = ["detect", "predict", str(places / "model"), str(photo), "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    monkeypatch.undo()
    assert photo.read_bytes() == second
    photo.write_bytes(first)
    assert main([*words, str(tmp_path / "first")]) == 0
    compare_folders(tmp_path / "out", tmp_path / "first")
    photo.write_bytes(second)
    assert main([*words, str(tmp_path / "out")]) == 0
    assert main([*words, str(tmp_path / "second")]) == 0
    compare_folders(tmp_path / "out", tmp_path / "second")
    assert _found(tmp_path / "first") != _found(tmp_path / "second")


def _exchange_when_read(monkeypatch, path: Path, data: bytes) -> None:
    """Write other bytes into a file whenever it was opened and closed again."""
    from sppnet.app.detect import predict

    def then_exchange(read: Callable[..., Any]) -> Callable[..., Any]:
        def call(asked: Path, *args: Any, **options: Any) -> Any:
            found = read(asked, *args, **options)
            if Path(asked) == path:
                path.write_bytes(data)
            return found

        return call

    for name in ("sha256_file", "read_content"):
        if hasattr(predict, name):
            monkeypatch.setattr(predict, name, then_exchange(getattr(predict, name)))


def test_times_are_of_the_image_and_pixels_are_decoded_once(data: Path) -> None:
    path = next(data.rglob("*.jpg"))
    image = ReadImage.of(path)
    assert image.pixels is image.pixels
    assert torch.equal(image.pixels, load_image(path))


def _val(data: Path, model: Path, out: Path, *words: str) -> tuple[dict[str, Any], str]:
    assert main(["detect", "val", str(model), str(data), *words, "--out", str(out)]) == 0
    return json.loads((out / "metrics.json").read_text()), (out / "report.html").read_text()


def test_scoring_on_images_of_the_training_is_said(
    data: Path, places: Path, tmp_path: Path, capsys
) -> None:
    words = "was trained on 7 of these 7 images"
    metrics, page = _val(data, places / "model", tmp_path / "train", "--split", "train")
    assert f"warning: the model {words}" in capsys.readouterr().err
    assert metrics["seen_in_training"] == metrics["images"] == 7
    assert words in metrics["warnings"][0]
    assert words in page
    metrics, page = _val(data, places / "model", tmp_path / "test")
    assert "warning" not in capsys.readouterr().err
    assert (metrics["seen_in_training"], metrics["warnings"]) == (0, [])
    assert "trained on" not in page


def test_one_of_several_detectors_that_saw_the_images_is_enough(
    data: Path, places: Path, tmp_path: Path
) -> None:
    fresh = Detector.load(places / "other")
    fresh.seen = torch.zeros(1, dtype=torch.int64)
    fresh.save(tmp_path / "other")
    words = ["--split", "train", "--combine", str(places / "model")]
    assert _val(data, tmp_path / "other", tmp_path / "out", *words)[0]["seen_in_training"] == 7


def test_models_that_do_not_say_what_they_saw(
    data: Path, places: Path, tmp_path: Path, capsys
) -> None:
    old = Detector.load(places / "model")
    old.seen = None
    old.save(tmp_path / "old")
    metrics, page = _val(data, tmp_path / "old", tmp_path / "out")
    assert metrics["seen_in_training"] is None
    assert "does not say which images" in metrics["warnings"][0]
    assert "does not say which images" in page
    assert "does not say which images" in capsys.readouterr().err


def test_long_stems_that_are_equal_give_names_that_fit(tmp_path):
    stem = "ä" * 125  # 250 bytes
    paths = [Path(folder, f"{stem}.jpg") for folder in ("one", "two", "three")]
    paths += [Path("one", f"{stem}.png"), Path("one", f"{stem[:-1]}x.jpg")]
    names = overlay_names(paths)
    assert len({name.lower() for name in names.values()}) == len(paths)
    for name in names.values():
        assert len(os.fsencode(f"{name}-99.jpg")) <= 255
        (tmp_path / f"{name}.jpg").write_bytes(b"fits")


def test_many_equal_long_stems_of_one_path_are_numbered():
    paths = [Path("a", f"{'s' * 240}{ending}") for ending in (".jpg", ".png", ".bmp")]
    assert list(overlay_names(paths).values()) == ["s" * 240, f"{'s' * 240}-2", f"{'s' * 240}-3"]


def test_short_stems_stay(tmp_path):
    assert list(overlay_names([tmp_path / "x.jpg", tmp_path / "b" / "X.png"]).values()) == [
        "x",
        "X-2",
    ]
