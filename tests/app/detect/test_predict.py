"""``sppnet detect val`` and ``predict`` in a folder that was used before: no stale answer."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from option_walk import compare_folders, options_of
from sppnet import Detector
from sppnet.app.detect.outcomes import OutcomeStore, ReadImage
from sppnet.app.detect.predict import overlay_names, result_ids
from sppnet.app.main import main
from sppnet.evaluation import OperatingPoints, ScoreCalibration
from sppnet.images import draw_detection_set, load_image
from sppnet.images.video import VideoWriter, read_frames
from sppnet.storage import write_bytes

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = [
    *("--backbone", "small5", "--weights", "none", "--proposals", "grid", "--imgsz", "96"),
    *("--max-anchors", "40", "--mirror", "off", "--crops", "off"),
]
# Words that change a result, for every option; {} is a folder with models and files of proposals.
INFERENCE: dict[str, list[str]] = {
    "--proposals": ["--proposals", "graph"],
    "--max-proposals": ["--max-proposals", "30"],
    "--seed": ["--seed", "7", "--proposals", "graph"],
    "--max-anchors": ["--max-anchors", "5"],
    "--nms": ["--nms", "hard"],
    "--nms-threshold": ["--nms", "hard", "--nms-threshold", "0.05"],
    "--soft-sigma": ["--soft-sigma", "0.05"],
    "--max-detections": ["--max-detections", "2"],
    "--moved-per-class": ["--moved-per-class", "1"],
    "--vote-overlap": ["--vote-overlap", "0.3"],
    "--softmax-temperature": ["--softmax-temperature", "2"],
    "--flip": ["--flip"],
    "--max-per": ["--max-per", "class", "--max-detections", "2"],
    "--refined": ["--refined", "kept"],
    "--rescore": ["--no-rescore"],
    "--search-side": ["--search-side", "80", "--proposals", "graph"],
    "--least-side": ["--least-side", "30"],
    "--recipe": ["--recipe", "paper", "--max-proposals", "60"],
    "--combine": ["--combine", "{}/other"],
    "--threads": ["--threads", "2"],
    "--max-pixels": ["--max-pixels", "1000000"],
    "--device": ["--device", "cpu"],
    "--fresh": ["--fresh"],
    "--debug": ["--debug"],
    "--dry-run": ["--dry-run"],
}
# Of many machines; tests/bulk has them.
WORKERS = {"--engine", "--address", "--concurrency", "--cpus", "--gpus", "--batch"}
VAL = INFERENCE | {"--split": ["--split", "train"], "--keep": ["--no-keep"], "--out": []}
PREDICT = INFERENCE | {
    "--score-threshold": ["--score-threshold", "-0.5"],
    "--show-above": ["--show-above", "-1.5"],
    "--every": ["--every", "2"],
    "--out": [],
}
SAME = {
    "--every",  # of videos
    "--keep",
    "--threads",
    "--max-pixels",
    "--device",
    "--fresh",
    "--debug",
    "--dry-run",
    "--out",
}


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
    assert set(options_of("detect", command)) - WORKERS == set(cases)


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
    from sppnet.app.detect import outcomes

    def then_exchange(read: Callable[..., Any]) -> Callable[..., Any]:
        def call(asked: Path, *args: Any, **options: Any) -> Any:
            found = read(asked, *args, **options)
            if Path(asked) == path:
                path.write_bytes(data)
            return found

        return call

    for name in ("sha256_file", "read_content"):
        if hasattr(outcomes, name):
            monkeypatch.setattr(outcomes, name, then_exchange(getattr(outcomes, name)))


def test_times_are_of_the_image_and_pixels_are_decoded_once(data: Path) -> None:
    path = next(data.rglob("*.jpg"))
    image = ReadImage.of(path)
    assert image.pixels is image.pixels
    assert torch.equal(image.pixels.float() / 255, load_image(path))


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
    files = [f"{stem}.jpg", f"{stem}.png", f"{stem}.bmp", f"{stem[:-1]}x.jpg", f"one/{stem}.jpg"]
    names = overlay_names(files)
    assert len({name.lower() for name in names.values()}) == len(files)
    (tmp_path / "one").mkdir()
    for name in names.values():
        assert len(os.fsencode(Path(name).name)) <= 255
        (tmp_path / name).write_bytes(b"fits")


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["cam1/x.JPG", "cam2/x.JPG"], ["cam1/x.jpg", "cam2/x.jpg"]),
        (["x.jpg", "x.png", "x.bmp"], ["x.jpg", "x.png.jpg", "x.bmp.jpg"]),
        (["a/x.jpg", "A/X.png"], ["a/x.jpg", "A/X.png.jpg"]),
        (["x.png", "x.jpg/y.png"], ["x.png.jpg", "x.jpg/y.jpg"]),
        (["x.jpg", "X.JPG", "x.JPG"], ["x.jpg", "X.JPG.jpg", "x-2.jpg"]),
        (["C:/photos/x.jpg"], ["C/photos/x.jpg"]),
    ],
)
def test_overlays_lie_in_folders_as_the_photos_do(files: list[str], names: list[str]) -> None:
    assert list(overlay_names(files).values()) == names


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        (["a/x.jpg", "b/y.jpg"], ["x", "y"]),
        (["a/x.jpg", "b/x.jpg", "b/y.jpg"], ["a/x", "b/x", "y"]),
        (["x.jpg", "x.png"], ["x.jpg", "x.png"]),
        (["x.jpg", "x.png", "x.jpg.png"], ["x.jpg", "x.png", "x.jpg.png"]),
        (["x/1.jpg", "x/1.png", "x/1.jpg.png", "y/1.jpg.png"],
         ["x/1.jpg", "x/1.png", "x/1.jpg.png", "y/1.jpg"]),
    ],
)  # fmt: skip
def test_ids_stay_unique(files: list[str], ids: list[str]) -> None:
    assert list(result_ids(files).values()) == ids


# --- what is left for people ------------------------------------------------------------------


@pytest.fixture(scope="module")
def cameras(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of one name in three folders; the last one is empty, and one cannot be read."""
    folder = tmp_path_factory.mktemp("cameras")
    photos = sorted((data / "JPEGImages").iterdir())[:2]
    for camera, content in zip("12", (path.read_bytes() for path in photos), strict=True):
        (folder / f"cam{camera}").mkdir()
        (folder / f"cam{camera}" / "IMG_0001.JPG").write_bytes(content)
    (folder / "cam3").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "cam3" / "IMG_0001.JPG")
    (folder / "cam3" / "broken.jpg").write_bytes(b"no photo")
    return folder


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _with_points(places: Path, folder: Path, threshold: float) -> Path:
    """The model, with one threshold for all classes."""
    detector = Detector.load(places / "model")
    count = len(detector.names)
    scores, right = [-1.0, 1.0] * 20, [False, True] * 20
    calibration = ScoreCalibration().fit(scores, [0] * 40, right, count)
    points = OperatingPoints((threshold,) * count, calibration, "val", 4, (3,) * count)
    detector.operating_points = points
    detector.save(folder / "model")
    return folder / "model"


def test_photos_of_one_name_stay_apart_everywhere(
    places: Path, cameras: Path, tmp_path: Path
) -> None:
    model, out = _with_points(places, tmp_path, -1.4), tmp_path / "out"
    assert main(["detect", "predict", str(model), str(cameras), "--out", str(out)]) == 3
    files = [f"cam{n}/IMG_0001.JPG" for n in (1, 2, 3)]
    found, rows = _found(out), _table(out / "detections.csv")
    assert {each["file"] for each in found} == set(files)
    assert {(e["file"], e["image_id"]) for e in found} == {(f, f[:-4]) for f in files}
    counted = [e["file"] for e in found if e["above_threshold"]]
    assert [row["file"] for row in rows] == counted
    counts = {row["file"]: row for row in _table(out / "counts.csv")}
    assert list(counts) == sorted([*files, "cam3/broken.jpg"])
    for file in files:
        assert counts[file]["total"] == str(counted.count(file))
        assert (out / "overlays" / file).with_suffix(".jpg").is_file()
        assert file in (out / "index.html").read_text()
    assert counts["cam3/broken.jpg"]["total"] == ""  # not known, which is not none


def test_an_image_with_nothing_has_a_line_of_zeros(
    places: Path, cameras: Path, tmp_path: Path
) -> None:
    model, out = _with_points(places, tmp_path, 1e5), tmp_path / "out"
    words = [str(cameras / "cam1"), str(cameras / "cam3" / "IMG_0001.JPG"), "--out", str(out)]
    assert main(["detect", "predict", str(model), *words]) == 0
    rows = _table(out / "counts.csv")
    assert [row["file"] for row in rows] == ["cam1/IMG_0001.JPG", "cam3/IMG_0001.JPG"]
    assert {value for row in rows for name, value in row.items() if name != "file"} == {"0"}
    assert _table(out / "detections.csv") == []
    assert _found(out)  # all that was scored is there, for evaluate
    assert not any(each["above_threshold"] for each in _found(out))


def test_the_operating_point_counts_and_a_given_threshold_goes_before_it(
    places: Path, cameras: Path, tmp_path: Path, capsys
) -> None:
    model, out = _with_points(places, tmp_path, -0.5), tmp_path / "out"
    words = ["detect", "predict", str(model), str(cameras / "cam1"), "--out", str(out)]
    assert main(words) == 0
    assert "count from a score of -0.50" in capsys.readouterr().err
    found, rows = _found(out), _table(out / "detections.csv")
    assert min(each["score"] for each in found) < -0.5
    assert [e["score"] >= -0.5 for e in found] == [e["above_threshold"] for e in found]
    assert len(rows) == sum(each["above_threshold"] for each in found)
    assert all(0 <= each["confidence"] <= 1 for each in found)
    assert all(float(row["confidence"]) > 0 for row in rows)
    assert main([*words, "--score-threshold", "-0.9"]) == 0
    again = _found(out)
    assert again == [e | {"above_threshold": True} for e in found if e["score"] >= -0.9]
    assert len(_table(out / "detections.csv")) == len(again)


def test_another_operating_point_changes_the_results_and_computes_nothing(
    places: Path, cameras: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "out"
    words = ["detect", "predict", str(tmp_path / "model"), str(cameras / "cam1"), "--out", str(out)]
    _with_points(places, tmp_path, -0.5)
    assert main(words) == 0
    rows = _table(out / "detections.csv")
    _with_points(places, tmp_path, -1.0)
    monkeypatch.setattr(Detector, "detect", None)
    assert main(words) == 0
    assert len(_table(out / "detections.csv")) > len(rows)


def test_a_model_without_an_operating_point_counts_from_zero_and_says_so(
    places: Path, cameras: Path, tmp_path: Path, capsys
) -> None:
    detector, out = Detector.load(places / "model"), tmp_path / "out"
    detector.operating_points = None
    detector.save(tmp_path / "model")
    words = ["detect", "predict", str(tmp_path / "model"), str(cameras / "cam1")]
    assert main([*words, "--out", str(out)]) == 0
    assert "no operating point: detections count from a score of 0" in capsys.readouterr().err
    assert [e["above_threshold"] for e in _found(out)] == [e["score"] >= 0 for e in _found(out)]
    assert all("confidence" not in each for each in _found(out))


def test_what_a_killed_prediction_left_half_written_is_removed(
    places: Path, cameras: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "overlays" / "deep").mkdir(parents=True)
    folders = (out, out / "overlays", out / "overlays" / "deep")
    left = [folder / ".a.jpg.tmp-99999999-0123abcd" for folder in folders]
    for each in left:
        each.write_text("half")
    words = ["detect", "predict", str(places / "model"), str(cameras / "cam1"), "--out", str(out)]
    assert main(words) == 0
    assert not any(each.exists() for each in left)


def test_a_video_gives_counts_and_a_drawn_video(
    data: Path, places: Path, tmp_path: Path, capsys
) -> None:
    picture = (load_image(sorted((data / "JPEGImages").iterdir())[0]) * 255).byte()
    with VideoWriter(tmp_path / "walk.mp4", 10) as video:
        for _ in range(4):
            video.write(picture.permute(1, 2, 0).numpy())
    words = ["detect", "predict", str(places / "model"), str(tmp_path / "walk.mp4"), "--out"]
    out = tmp_path / "out"
    assert main([*words, str(out), "--every", "2", "--score-threshold", "-5"]) == 0
    counts = list(csv.DictReader((out / "walk-counts.csv").read_text().splitlines()))
    assert [row["frame"] for row in counts] == ["0", "2"]
    assert [row["seconds"] for row in counts] == ["0.0", "0.2"]
    found = list(csv.DictReader((out / "walk-detections.csv").read_text().splitlines()))
    assert len(found) == sum(int(row["total"]) for row in counts) > 0
    drawn = list(read_frames(out / "walk.mp4"))
    assert len(drawn) == 2
    assert (drawn[0].image - picture / 255).abs().max() > 0.3  # boxes
    (tmp_path / "text.mp4").write_text("no video")
    assert main([*words[:3], str(tmp_path / "text.mp4"), "--out", str(out)]) == 4
    assert main([*words[:4], "a.jpg", "--out", str(out)]) == 2
    assert "videos go without pictures" in capsys.readouterr().err
    # beside the video itself, what is drawn would take its place
    before = (tmp_path / "walk.mp4").read_bytes()
    assert main([*words, str(tmp_path)]) == 2
    assert "would put what is drawn over it" in capsys.readouterr().err
    assert (tmp_path / "walk.mp4").read_bytes() == before
    pattern = str(tmp_path / "w*.mp4")
    assert main([*words[:3], pattern, "--out", str(out), "--every", "3", "--dry-run"]) == 0
    assert "would look at one of 3 frames of " in capsys.readouterr().out


def test_a_second_run_draws_only_what_is_missing_or_other(
    data: Path, places: Path, tmp_path: Path, monkeypatch
) -> None:
    drawn: list[str] = []
    draw = "sppnet.app.detect.predict.write_bytes"
    monkeypatch.setattr(draw, lambda path, data: (drawn.append(path.name), write_bytes(path, data)))

    def run(*words: str) -> list[str]:
        drawn.clear()
        assert _run("predict", data, places, tmp_path / "out", *words) == 0
        return sorted(drawn)

    both = run()
    assert len(both) == 2
    assert run() == []
    (tmp_path / "out" / "overlays" / both[0]).unlink()
    assert run() == both[:1]
    assert run("--score-threshold", "-0.5") == both
    assert run() == both
    assert run("--fresh") == both
