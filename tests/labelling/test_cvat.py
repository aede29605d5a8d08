"""CVAT's auto-annotation by its own types: cvat-sdk's driver and cvat-cli's loader."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cvat_cli._internal.common import FunctionLoader
from cvat_sdk import models
from cvat_sdk.auto_annotation import BadFunctionError, DetectionFunctionSpec
from cvat_sdk.auto_annotation.driver import _AnnotationMapper, _DetectionFunctionContextImpl
from PIL import Image

from cvat_stand_in import FIRST_LABEL, StandInCvat, serving
from sppnet.config.classification import FitConfig
from sppnet.detection import Detector
from sppnet.detection.watch import usual_thresholds
from sppnet.errors import MissingPackageError, UnusableFileError
from sppnet.evaluation.calibration import MatchedScores
from sppnet.evaluation.operating_point import OperatingPoints, reaches
from sppnet.images import draw_class_folders, draw_detection_set, list_images
from sppnet.labelling.class_session import ClassSession
from sppnet.labelling.cvat import create

MODULE = "sppnet.labelling.cvat"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return draw_detection_set(tmp_path_factory.mktemp("scenes"), 8, seed=0)


@pytest.fixture(scope="module")
def detector(scenes: Path, tmp_path_factory) -> Path:
    """Random features find little: the operating point lies low, so that something counts."""
    small = {"backbone": "small5", "weights": "none", "imgsz": (96,), "proposals": "grid"}
    made = Detector.fit(scenes, **small)
    rows = ([0.9, 0.8, 0.7, 0.6, 0.5, 0.1], [0] * 6, [True] * 5 + [False], [0, 1, 2, 3, 4, 5])
    count = len(made.names)
    points = OperatingPoints.from_matches(
        MatchedScores(*map(np.array, rows)), [6] * count, 6, "val"
    )
    made.operating_points = replace(points, thresholds=(-0.95,) * count)
    folder = tmp_path_factory.mktemp("models") / "detector"
    made.save(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    photos = draw_class_folders(tmp_path_factory.mktemp("classes"), 3, seed=0)
    config = FitConfig(backbone="small5", weights="none", imgsz=48)
    with ClassSession.open(photos, config=config, background=False) as session:
        for photo in session.photos:
            session.set_names(photo, [photo.split("/")[0]])
        session.refit()
        return session.save_model(tmp_path_factory.mktemp("models") / "classifier")


def photo_of(scenes: Path, number: int = 0) -> Image.Image:
    return Image.open(list_images([scenes / "JPEGImages"]).paths[number])


def load(model: Path):
    """As cvat-cli does with --function-module and -p model=str:FOLDER."""
    return FunctionLoader(MODULE, None, {"model": str(model)}).load()


def remap(function, answers, names: list[str], kind: str = "any"):
    """What cvat-sdk makes of answers for a task with these labels, in its own numbers."""
    labels = [models.Label(name=name, id=FIRST_LABEL + n, type=kind, attributes=[], sublabels=[])
              for n, name in enumerate(names)]  # fmt: skip
    mapper = _AnnotationMapper(
        logging.getLogger(__name__), function.spec.labels, labels, allow_unmatched_labels=True,
        conv_mask_to_poly=False,
    )  # fmt: skip
    return mapper.validate_and_remap(answers, 7)


def context(least: float | None = None) -> _DetectionFunctionContextImpl:
    return _DetectionFunctionContextImpl(frame_name="a.jpg", conf_threshold=least)


def test_a_detector_answers_with_its_rectangles(scenes: Path, detector: Path) -> None:
    function, own = load(detector), Detector.load(detector)
    assert isinstance(function.spec, DetectionFunctionSpec)
    assert [(each.id, each.name) for each in function.spec.labels] == list(enumerate(own.names))
    image = photo_of(scenes)
    found = own.predict(image)
    found = found.select(reaches(found, usual_thresholds(own)))
    answers = function.detect(context(), image)
    assert found.count
    assert [each.points for each in answers] == found.boxes.tolist()
    tags, shapes = remap(function, answers, list(own.names))
    assert tags == []
    assert [shape.label_id for shape in shapes] == [FIRST_LABEL + n for n in found.labels.tolist()]
    assert {(shape.frame, shape.type.value, shape.source) for shape in shapes} == {
        (7, "rectangle", "auto")
    }


def test_the_threshold_of_the_task_goes_before_the_operating_point(
    scenes: Path, detector: Path
) -> None:
    function, image = load(detector), photo_of(scenes)
    sure = [each.score for each in function.detect(context(0.0), image)]
    assert sure == sorted(sure, reverse=True)
    assert all(0 <= each <= 1 for each in sure)
    for least in (sure[len(sure) // 2], 1.0):
        kept = [each.score for each in function.detect(context(least), image)]
        assert kept == [each for each in sure if each >= least]


def test_classes_that_the_task_lacks_are_left_out(scenes: Path, detector: Path) -> None:
    function = load(detector)
    answers = function.detect(context(0.0), photo_of(scenes))
    name = Detector.load(detector).names[answers[0].label_id]
    _, shapes = remap(function, answers, [name])
    assert {shape.label_id for shape in shapes} == {FIRST_LABEL}
    with pytest.raises(BadFunctionError, match="rectangle"):
        remap(function, function.detect(context(0.0), photo_of(scenes)), [name], "polygon")


def test_a_classifier_answers_with_one_tag(classifier: Path) -> None:
    function = load(classifier)
    names = [each.name for each in function.spec.labels]
    folder = classifier.parent.parent
    photos = next(folder.glob("classes*"))
    for photo in list_images([photos]).paths[::3]:
        answers = function.detect(context(), Image.open(photo))
        tags, shapes = remap(function, answers, names)
        assert (len(tags), shapes) == (1, [])
        assert function.detect(context(1.0), Image.open(photo)) == []
        assert names[tags[0].label_id - FIRST_LABEL] in names


def test_cvats_command_line_annotates_a_task(scenes: Path, detector: Path, tmp_path) -> None:
    photos, own = list_images([scenes / "JPEGImages"]).paths[:3], Detector.load(detector)
    found = own.predict(photos)
    least = torch.cat([each.confidence for each in found]).median().item()
    cvat = StandInCvat(photos, own.names[::-1])
    with serving(cvat) as address:
        words = ["--server-host", address, "task", "auto-annotate", "1", "--function-module",
                 MODULE, "-p", f"model=str:{detector}"]  # fmt: skip
        words += ["--conf-threshold", repr(least)]
        settings = {"CVAT_ACCESS_TOKEN": "a-token", "XDG_CACHE_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "cvat_cli", *words], env={**os.environ, **settings},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (sent,) = cvat.sent
    assert sent["tags"] == []
    wanted = []
    for frame, each in enumerate(found):
        for row in (each.confidence >= least).nonzero().flatten().tolist():
            label = FIRST_LABEL + len(own.names) - 1 - int(each.labels[row])
            wanted.append((frame, label, each.boxes[row].tolist()))
    assert wanted
    assert [(s["frame"], s["label_id"], s["points"]) for s in sent["shapes"]] == wanted
    assert {(s["type"], s["source"]) for s in sent["shapes"]} == {("rectangle", "auto")}


def test_what_cannot_be_used(tmp_path: Path, monkeypatch, detector: Path) -> None:
    with pytest.raises(UnusableFileError):
        create(str(tmp_path))
    monkeypatch.setitem(sys.modules, "cvat_sdk", None)
    with pytest.raises(MissingPackageError, match=r"sppnet\[cvat\]"):
        create(str(detector))
