"""Case 10: a classifier exported to ONNX, onnxruntime beside eager torch, at several sizes."""

from typing import TYPE_CHECKING, Any

import torch

from sppnet.app.benchmark_inputs import draw_map
from sppnet.app.benchmark_plan import LEVELS, BenchmarkPlan
from sppnet.app.benchmark_results import Comparison, NotRun, Results
from sppnet.app.benchmark_timing import time_together, using_threads
from sppnet.errors import MissingPackageError
from sppnet.pooling.onnx.export import (
    ROUNDING,
    check_packages,
    export_onnx,
    largest_difference,
    open_session,
)

if TYPE_CHECKING:
    from sppnet.classification import Classifier

WHAT = "classifier exported to ONNX"
TRUNK, CLASSES = "squeezenet1_1", 20


def compare_onnx(plan: BenchmarkPlan) -> Results:
    """Time one exported file at each size, beside the network that it came from, one thread."""
    try:
        check_packages()
    except MissingPackageError as error:
        return Results(not_run=[NotRun("10", WHAT, f"not run: {error.message}")])
    classifier = _build(plan.seed)
    with using_threads(1), torch.inference_mode():
        session = export_for_timing(classifier)
        made = [_compare_at(classifier, session, side, plan) for side in plan.image_sides]
    return Results(made)


def _build(seed: int) -> "Classifier":
    """Build a classifier with random weights: they do not change the time."""
    from sppnet.classification import Classifier, View, build_classifier

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_classifier(TRUNK, num_classes=CLASSES, levels=LEVELS)
    return Classifier(network, View("full", 224), [f"class {i}" for i in range(CLASSES)])


def export_for_timing(classifier: "Classifier") -> Any:
    """Export as ``sppnet export`` does and open the file in onnxruntime, with torch's threads.

    Args:
        classifier: On the CPU.

    Returns:
        ``onnxruntime.InferenceSession`` from ``images`` to ``logits``.
    """
    from sppnet.classification.onnx import classifier_recipe

    data, _ = export_onnx(classifier_recipe(classifier))
    return open_session(data)


def _compare_at(
    classifier: "Classifier", session: Any, side: int, plan: BenchmarkPlan
) -> Comparison:
    """Compare the logits and the times of one size."""
    images = draw_map((1, 3, side, side * 3 // 2), plan.seed).clamp_(max=1)
    feed, network = {"images": images.numpy()}, classifier.network
    what = f"{WHAT}: {TRUNK}, one image of {side}x{side * 3 // 2}"
    difference = largest_difference(torch.from_numpy(session.run(None, feed)[0]), network(images))
    if difference > ROUNDING:
        raise RuntimeError(
            f"{what}: logits must be within {ROUNDING:g} of the largest, got {difference:g}"
        )
    calls = {"ort": lambda: session.run(None, feed), "eager": lambda: network(images)}
    timings = time_together(calls, plan.pace)
    return Comparison("10", what, 1, timings["ort"], "eager torch", timings["eager"])
