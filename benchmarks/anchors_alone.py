"""What a detector loses without proposals from the pixels, as an exported graph is.

python benchmarks/anchors_alone.py --data DIR --model RUN/model [--split test]
"""

import argparse
import sys
import time

from sppnet import Detections, Detector, open_detection_dataset
from sppnet.evaluation import summarise_detections
from sppnet.images import to_image


def main() -> None:
    """Score the same detector on both kinds of proposals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    detector = Detector.load(options.model)
    if detector.anchors is None:
        raise SystemExit("the detector has no anchors")
    data = open_detection_dataset(options.data, options.split)
    for name in ("all", "anchors"):
        found: dict[str, Detections] = {}
        start = time.perf_counter()
        for image in data.images:
            pixels = to_image(image.path)
            encoded = detector.encode(pixels)
            if name == "all":
                boxes = detector.propose(pixels, encoded)
            else:
                boxes, _ = detector.anchors.propose(encoded, detector.inference.max_anchors)
            found[image.image_id] = detector.detect(encoded, boxes)
        seconds = (time.perf_counter() - start) / len(data.images)
        figures = summarise_detections(data.images, found, data.names)
        shown = ", ".join(f"{key} {figures[key]:.4f}" for key in ("ap50", "ap50_voc07", "ap"))
        sys.stdout.write(f"{name}: {shown}, {seconds:.2f} s a photo\n")


if __name__ == "__main__":
    main()
