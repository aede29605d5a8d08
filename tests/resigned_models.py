"""Small saved models of every kind, and ways to spoil one field and sign the folder again."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sppnet.backbones import build_backbone
from sppnet.classification import Classifier, View, build_classifier, build_head
from sppnet.classification.convert import PretrainedPlusPyramidHead
from sppnet.classification.network import AverageAndPyramid, SppNet
from sppnet.classification.transfer.features import FeatureEncoder
from sppnet.classification.transfer.fit import TransferClassifier
from sppnet.classification.transfer.recipe import Block, FeatureRecipe
from sppnet.detection import Detector, Encoder, InferenceConfig
from sppnet.detection.heads.box_regression import BoxCascade, CascadeConfig, RidgeBoxRegressor
from sppnet.detection.heads.classifiers import (
    LinearRegionClassifier,
    SoftmaxRegionClassifier,
    TwoStageRegionClassifier,
)
from sppnet.detection.heads.kernel_svm import KernelRegionClassifier
from sppnet.detection.heads.region_head import BoxHead, BoxPredictor, RegionFeatures, RegionHead
from sppnet.detection.proposals.anchors import AnchorConfig, AnchorProposer, LearntAnchors
from sppnet.evaluation import OperatingPoints, ScoreCalibration
from sppnet.storage.models import manifest_text

NAMES = ("cat", "dog")
REMOVED, EXTRA = object(), object()
NAN = "a NaN, which JSON does not have"
BAD: tuple[Any, ...] = (
    None, True, "x", -1, 0, 0.5, 10**9, 10**18, 10**400, 1e308, [], {}, [[]], NAN, REMOVED, EXTRA,
)  # fmt: skip
Place = tuple[str | int, ...]


def make_detector(kind: str) -> Detector:
    """A detector whose classifier is of a kind; the kinds also differ in what else they have."""
    torch.manual_seed(0)
    encoder = Encoder(build_backbone("small5"), (64,), (1, 2))
    head = RegionHead(encoder.length, 2, widths=(6, 5), ranks=(3, 0)).eval()
    linear = LinearRegionClassifier(torch.zeros(encoder.length, 2), torch.zeros(2))
    fc6 = RegionFeatures("fc6", head)
    kernel = KernelRegionClassifier(torch.zeros(3, 6), 1.0, torch.zeros(3, 2), torch.zeros(2), fc6)
    classifier = {
        "linear": linear,
        "softmax": SoftmaxRegionClassifier(head),
        "kernel": kernel,
        "prefiltered": TwoStageRegionClassifier(linear, kernel, 4),
    }[kind]
    mover = _cascade(encoder) if kind == "linear" else BoxHead(head, BoxPredictor(5, 2).eval())
    anchors = _anchors(encoder) if kind in ("linear", "kernel") else None
    config = InferenceConfig("grid", max_proposals=20, max_anchors=10)
    points = _operating_points() if kind == "linear" else None
    return Detector(encoder, classifier, mover, NAMES, config, anchors, operating_points=points)


def _operating_points() -> OperatingPoints:
    """Thresholds and a calibration: one class has a curve of its own."""
    calibration = ScoreCalibration().fit([-1.0, 1.0] * 20, [0] * 40, [False, True] * 20, 2)
    return OperatingPoints((0.5, -0.5), calibration, "training", 4, (3, 2))


def _cascade(encoder: Encoder) -> BoxCascade:
    cascade = BoxCascade(2, CascadeConfig(stages=1))
    stage = RidgeBoxRegressor()
    stage.weights_, stage.bias_ = torch.zeros(2, encoder.length, 4), torch.zeros(2, 4)
    cascade.stages_ = [stage]
    return cascade


def _anchors(encoder: Encoder) -> AnchorProposer:
    proposer = AnchorProposer.of(encoder, AnchorConfig(bins=2, channels=3))
    channels = encoder.backbone.channels
    shapes = torch.tensor([[0.0, 20.0, 30.0]])
    proposer.learnt_ = LearntAnchors(
        torch.rand(3, channels), torch.zeros(3), shapes, torch.rand(1, 13, 5) * 0.01
    )
    return proposer


def make_classifier(kind: str) -> Classifier | TransferClassifier:
    """A classifier of a kind: its pooling and its head."""
    torch.manual_seed(0)
    if kind == "transfer":
        source = build_classifier("small5", 3, (1,), (7,))
        blocks = (Block("fc6", short_side=40), Block("relu2", "spp+avg", (1, 2), short_side=40))
        encoder = FeatureEncoder.of_network(source, FeatureRecipe(blocks))
        head = build_head(encoder.row_length, 2, feature_norm=1.0)
        return TransferClassifier(encoder, head, NAMES, about={"c": 1.0})
    if kind == "carried":
        backbone = build_backbone("small5")
        old = nn.Sequential(nn.LayerNorm([96]), nn.Dropout(0.1), nn.Linear(96, 2))
        head = PretrainedPlusPyramidHead(old, 96, 96 * 5, 2)
        network = SppNet(backbone, AverageAndPyramid((1, 2)), head)
    else:
        hidden = (4,) if kind == "hidden" else ()
        pool = "avg" if kind == "average" else "spp"
        network = build_classifier("small5", 2, (1, 2), hidden, 0.5, pool=pool, feature_norm=1.0)
    return Classifier(network, View("full", 40), NAMES, about={"by": "hand"})


def sign(folder: Path, config: bytes, tensors: bytes | None = None) -> None:
    """Write another configuration, or tensors, with a manifest that fits them."""
    if tensors is not None:
        (folder / "model.safetensors").write_bytes(tensors)
    kind = json.loads((folder / "manifest.json").read_bytes())["kind"]
    files = {
        "model.safetensors": (folder / "model.safetensors").read_bytes(),
        "config.json": config,
    }
    (folder / "config.json").write_bytes(config)
    (folder / "manifest.json").write_text(manifest_text(kind, files))


def spoiled(config: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Every field of a configuration, each with every bad value: what was done, and the bytes."""
    for place in _places(config, ()):
        for value in BAD:
            changed = _change(config, place, value)
            if changed is not None:
                text = json.dumps(changed).replace(json.dumps(NAN), "NaN")
                words = "removed" if value is REMOVED else "extra" if value is EXTRA else value
                yield f"{place} -> {str(words)[:20]}", text.encode()


def _places(value: Any, place: Place) -> Iterator[Place]:
    """Paths of all fields, and of the first item of each list."""
    if isinstance(value, dict):
        items: list[tuple[str | int, Any]] = list(value.items())
    else:
        items = [(0, value[0])] if isinstance(value, list) and value else []
    for key, item in items:
        yield (*place, key)
        yield from _places(item, (*place, key))


def _change(config: dict[str, Any], place: Place, value: Any) -> dict[str, Any] | None:
    """A copy with one change; None where it cannot be made."""
    copy = deepcopy(config)
    parent: Any = copy
    for key in place[:-1]:
        parent = parent[key]
    if value is REMOVED:
        del parent[place[-1]]
    elif value is EXTRA:
        if not isinstance(parent[place[-1]], dict):
            return None
        parent[place[-1]]["surplus"] = 1
    else:
        parent[place[-1]] = value
    return copy


def spoil_tensors(tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every tensor missing, of another shape, of another type; and one too many."""
    yield "one too many", {**tensors, "surplus": torch.zeros(2)}
    prefix = next(iter(tensors)).split(".")[0]
    yield "one too many inside", {**tensors, f"{prefix}.surplus": torch.zeros(2)}
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "longer": lambda t: torch.cat([t.reshape(-1), t.reshape(-1), t.new_zeros(1)]),
        "half": lambda t: t.half() if t.is_floating_point() else t.to(torch.int32),
        "deeper": lambda t: t[None],
        "empty": lambda t: t.new_zeros(0),
    }
    for name, tensor in tensors.items():
        yield f"{name} removed", {k: v for k, v in tensors.items() if k != name}
        for words, change in changes.items():
            yield f"{name} {words}", {**tensors, name: change(tensor)}
