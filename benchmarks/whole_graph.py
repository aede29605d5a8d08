"""What an exported whole detector loses against the detector, and how far it is from torch.

sppnet export RUN/model whole.onnx --whole
python benchmarks/whole_graph.py --data DIR --model RUN/model --file whole.onnx [--split test]
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from sppnet import Detections, Detector, open_detection_dataset
from sppnet.detection.onnx.whole import SIZES, detect_by_torch
from sppnet.evaluation import summarise_detections
from sppnet.images import DetectionDataset, resize_image, to_image
from sppnet.pooling.onnx.export import open_session


def compare_proposals(detector: Detector, data: DetectionDataset) -> None:
    """Score the same detector on all proposals, and on those of its anchors alone."""
    for name in ("all", "anchors"):
        found: dict[str, Detections] = {}
        start = time.perf_counter()
        for image in data.images:
            pixels = to_image(image.path)
            encoded = detector.encode(pixels)
            boxes = detector.propose(pixels, encoded)
            if name == "anchors" and detector.anchors is not None:
                boxes, _ = detector.anchors.propose(encoded, detector.inference.max_anchors)
            found[image.image_id] = detector.detect(encoded, boxes)
        seconds = (time.perf_counter() - start) / len(data.images)
        figures = summarise_detections(data.images, found, data.names)
        shown = ", ".join(f"{key} {figures[key]:.4f}" for key in ("ap50", "ap50_voc07", "ap"))
        sys.stdout.write(f"{name}: {shown}, {seconds:.2f} s a photo\n")


def compare_libraries(detector: Detector, data: DetectionDataset, file: Path) -> None:
    """Ask the file and torch about photos at five sizes; processor time of one thread."""
    session = open_session(file.read_bytes())
    for image, size in zip(data.images, SIZES, strict=False):
        pixels = resize_image(to_image(image.path), size)[None].contiguous()
        session.run(None, {"image": pixels.numpy()})  # the first call prepares
        start = time.process_time()
        boxes, scores, labels = map(torch.from_numpy, session.run(None, {"image": pixels.numpy()}))
        middle = time.process_time()
        expected = detect_by_torch(detector, pixels)
        end = time.process_time()
        if labels.tolist() != expected[2].tolist():
            sys.stdout.write(f"{size}: other detections\n")
            continue
        apart = [
            float((a - b).abs().max()) if len(a) else 0.0
            for a, b in zip((boxes, scores), expected, strict=False)
        ]
        sys.stdout.write(
            f"{size}: {len(labels)} found, boxes {apart[0]:.1e} px, scores {apart[1]:.1e}, "
            f"{1000 * (middle - start):.0f} ms, torch {1000 * (end - middle):.0f} ms\n"
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
