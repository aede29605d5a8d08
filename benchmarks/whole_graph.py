"""What an exported whole detector loses against the detector, and how far it is from torch.

Runs the file in onnxruntime, and in OpenVINO where that is installed.

sppnet export RUN/model whole.onnx --whole
python benchmarks/whole_graph.py --data DIR --model RUN/model --file whole.onnx [--split test]
"""

import argparse
import importlib.util
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sppnet import Detections, Detector, open_detection_dataset
from sppnet.detection.onnx.whole import SIZES, detect_by_torch
from sppnet.evaluation import summarise_detections
from sppnet.images import DetectionDataset, resize_image, to_image
from sppnet.pooling.onnx.export import open_session

REPEATS = 5


def compare_proposals(detector: Detector, data: DetectionDataset) -> None:
    """Score the same detector on all proposals, and on those of its anchors alone."""
    for name in ("all", "anchors"):
        found: dict[str, Detections] = {}
        start = time.perf_counter()
        for image in data.images:
            pixels = to_image(image.path)
            encoded = detector.encode(pixels)
            if name == "anchors" and detector.anchors is not None:
                boxes, _ = detector.anchors.propose(encoded, detector.inference.max_anchors)
            else:
                boxes = detector.propose(pixels, encoded)
            found[image.image_id] = detector.detect(encoded, boxes)
        seconds = (time.perf_counter() - start) / len(data.images)
        figures = summarise_detections(data.images, found, data.names)
        shown = ", ".join(f"{key} {figures[key]:.4f}" for key in ("ap50", "ap50_voc07", "ap"))
        sys.stdout.write(f"{name}: {shown}, {seconds:.2f} s a photo\n")


Answer = Callable[[Tensor], list[Tensor]]  # an image in; boxes, scores and labels out


def open_runtimes(file: Path) -> dict[str, Answer]:
    """The file in each runtime that is installed, on one thread and in single precision."""
    data = file.read_bytes()
    session = open_session(data)
    runtimes: dict[str, Answer] = {
        "onnxruntime": lambda image: [
            torch.from_numpy(value) for value in session.run(None, {"image": image.numpy()})
        ]
    }
    if importlib.util.find_spec("openvino"):
        import openvino

        core = openvino.Core()
        exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        model = core.compile_model(core.read_model(io.BytesIO(data)), "CPU", exact)
        runtimes["OpenVINO"] = lambda image: [
            torch.from_numpy(value) for value in model({"image": image.numpy()}).values()
        ]
    return runtimes


def time_best(answer: Answer, image: Tensor) -> tuple[list[Tensor], float]:
    """The answer, and the least processor time of several calls in milliseconds."""
    found, times = answer(image), []  # the first call prepares
    for _ in range(REPEATS):
        start = time.process_time()
        answer(image)
        times.append(1000 * (time.process_time() - start))
    return found, min(times)


def compare_libraries(detector: Detector, data: DetectionDataset, file: Path) -> None:
    """Ask the file and torch about photos at five sizes; processor time of one thread."""
    runtimes = open_runtimes(file)
    for image, size in zip(data.images, SIZES, strict=False):
        pixels = resize_image(to_image(image.path), size)[None].contiguous()
        expected, spent = time_best(lambda image: list(detect_by_torch(detector, image)), pixels)
        sys.stdout.write(f"{size}: {len(expected[2])} found, torch {spent:.0f} ms\n")
        for name, answer in runtimes.items():
            (boxes, scores, labels), spent = time_best(answer, pixels)
            if labels.tolist() != expected[2].tolist():
                sys.stdout.write(f"  {name}: other detections\n")
                continue
            apart = [
                float((a - b).abs().max()) if len(a) else 0.0
                for a, b in zip((boxes, scores), expected, strict=False)
            ]
            sys.stdout.write(
                f"  {name}: boxes {apart[0]:.1e} px, scores {apart[1]:.1e}, {spent:.0f} ms\n"
            )


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = Detector.load(options.model)
    data = open_detection_dataset(options.data, options.split)
    compare_libraries(detector, data, options.file)
    compare_proposals(detector, data)


if __name__ == "__main__":
    main()
