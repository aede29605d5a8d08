"""A whole detector in one graph finds what torch finds, at every size."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from in_openvino import open_in_openvino
from sppnet.backbones import build_backbone
from sppnet.detection import BoxCascade, Detector, Encoder, InferenceConfig, LinearRegionClassifier
from sppnet.detection.heads.box_regression import CascadeConfig, RidgeBoxRegressor
from sppnet.detection.onnx.whole import (
    SIZES,
    _draw_image,
    check_whole,
    detect_by_torch,
    whole_recipe,
)
from sppnet.detection.proposals.anchors import AnchorConfig, AnchorProposer, LearntAnchors
from sppnet.errors import OutputError
from sppnet.pooling.onnx.export import export_onnx, open_session

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("cup", "pen", "key")
Run = Callable[[Mapping[str, Any]], list[Any]]  # boxes, scores and labels of an image


def draw_detector(classes: int = 3, agnostic: bool = False, **changes: object) -> Detector:
    """A detector of random weights whose scores lie on both sides of the threshold."""
    torch.manual_seed(0)
    encoder = Encoder(build_backbone("small5"), (128,), levels=(1, 2))
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=draw) * scale

    anchors = AnchorProposer.of(encoder, AnchorConfig(channels=8, candidates=150, bins=2))
    shapes = torch.tensor([[0.0, 40.0, 30.0], [0.0, 70.0, 90.0], [0.0, 16.0, 24.0]])
    rotation = normal(8, encoder.backbone.channels, scale=0.2)
    weights = normal(3, 8 * 4 + 1, 5, scale=0.05)
    anchors.learnt_ = LearntAnchors(rotation, normal(8, scale=0.1), shapes, weights)
    scorer = LinearRegionClassifier(normal(encoder.length, classes, scale=0.3), normal(classes))
    groups = 1 if agnostic else classes
    stages = []
    for _ in range(2):
        stage = RidgeBoxRegressor(groups)
        stage.weights_ = normal(groups, encoder.length, 4, scale=0.05)
        stage.bias_ = normal(groups, 4, scale=0.05)
        stages.append(stage)
    cascade = BoxCascade(classes, CascadeConfig(class_agnostic=agnostic))
    cascade.stages_ = stages
    config = replace(InferenceConfig(max_anchors=60, moved_per_class=20), **changes)
    return Detector(encoder, scorer, cascade, NAMES[:classes], config, anchors)


def export_whole(detector: Detector) -> bytes:
    """Export a detector, which compares it at five sizes."""
    recipe = whole_recipe(detector)
    data, comparisons = export_onnx(recipe)
    assert len(comparisons) == len(SIZES) == 5
    assert all(each.matches(recipe.tolerance) for each in comparisons), comparisons
    return data


def runs_of(data: bytes) -> tuple[Run, Run]:
    """A file in onnxruntime and in OpenVINO."""
    session = open_session(data)
    return lambda feed: session.run(None, feed), open_in_openvino(data)


def check_image(run: Run, detector: Detector, image: Tensor) -> int:
    """Compare one image; gives the number of detections."""
    boxes, scores, labels = map(torch.from_numpy, run({"image": image.numpy()}))
    expected = detect_by_torch(detector, image)
    assert labels.tolist() == expected[2].tolist()
    assert torch.allclose(scores, expected[1], atol=1e-4)
    assert torch.allclose(boxes, expected[0], atol=1e-4 * max(image.shape))
    return len(labels)


VARIANTS = {
    "soft": {},
    "hard": {"nms": "hard"},
    "one class": {"classes": 1},
    "one box regression": {"agnostic": True},
    "plain": {"rescore": False, "vote_overlap": 1.0, "softmax_temperature": 0.0},
    "all moved": {"moved_per_class": 0, "max_detections": 7},
}


# Each takes ten seconds; these three differ from the others in a number or a shape.
LONGER = ("one class", "one box regression", "all moved")
CASES = [
    pytest.param(name, marks=pytest.mark.slow) if name in LONGER else name for name in VARIANTS
]


@pytest.mark.parametrize("name", CASES)
def test_graph_finds_what_torch_finds(name: str) -> None:
    detector = draw_detector(**VARIANTS[name])
    data = export_whole(detector)
    for run in runs_of(data):
        found = [check_image(run, detector, _draw_image(*size)) for size in ((128, 170), (60, 40))]
        assert max(found) > 3


def test_no_box_regression_and_nothing_found() -> None:
    detector = draw_detector(score_threshold=-1.0)
    detector.box_regressor = None
    data = export_whole(detector)
    for run in runs_of(data):
        assert check_image(run, detector, _draw_image(128, 128)) > 3
    detector.classifier.bias.fill_(-50.0)
    data = export_whole(detector)
    for run in runs_of(data):
        assert check_image(run, detector, _draw_image(128, 128)) == 0
        assert check_image(run, detector, torch.zeros(1, 3, 1, 1)) == 0


def test_what_does_not_fit_is_named() -> None:
    detector = draw_detector()
    check_whole(detector)
    for changes, message in (
        ({"flip": True}, "mirror"),
        ({"max_per": "class"}, "cap is of each class"),
        ({"refined": "kept"}, "refines boxes after"),
        ({"score_threshold": -9.0}, "threshold"),
    ):
        with pytest.raises(OutputError, match=message):
            check_whole(draw_detector(**changes))
    detector.anchors = None
    with pytest.raises(OutputError, match="it has no anchors"):
        check_whole(detector)
