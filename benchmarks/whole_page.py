"""The page of ``sppnet export --web`` in Chromium: milliseconds a photo, and how far from torch.

sppnet export RUN/model --web page
python benchmarks/whole_page.py --data DIR --model RUN/model --page page/index.html [--split test]
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from label_page import find_browser, running_browser
from sppnet import Detector, open_detection_dataset
from sppnet.images import LabelledImage, to_image

WAIT = 120_000  # milliseconds


def ask_page(page_file: Path, images: list[LabelledImage]) -> list[tuple[float, list[dict]]]:
    """Open the page from the disk and give it photos: seconds and finds of each."""
    answers, place = [], find_browser()
    if place is None:
        raise SystemExit("chromium is not installed")
    with running_browser(place) as browser:
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        start = time.perf_counter()
        page.goto(page_file.absolute().as_uri(), timeout=WAIT)
        page.wait_for_selector("body[data-ready=yes]", timeout=WAIT, state="attached")
        sys.stdout.write(f"{browser.version}: ready after {time.perf_counter() - start:.1f} s\n")
        for image in images[-1:] + images:  # the first call prepares
            page.evaluate("delete document.body.dataset.done")
            page.set_input_files("#file", image.path)
            page.wait_for_selector("body[data-done=yes]", timeout=WAIT, state="attached")
            seconds = float(page.get_attribute("body", "data-seconds") or "nan")
            answers.append((seconds, json.loads(page.get_attribute("body", "data-found") or "[]")))
    outside = [url for url in asked if url.split(":")[0] not in ("file", "blob", "data")]
    sys.stdout.write(f"{len(outside)} requests that leave the page\n")
    return answers[1:]


def main() -> None:
    """Read the arguments, ask the page and torch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = Detector.load(options.model)
    images = open_detection_dataset(options.data, options.split).images
    answers = ask_page(options.page, images)
    others, boxes, scores = 0, [0.0], [0.0]
    for image, (_, found) in zip(images, answers, strict=True):
        encoded = detector.encode(to_image(image.path))
        proposals, _ = detector.anchors.propose(encoded, detector.inference.max_anchors)
        expected = detector.detect(encoded, proposals)
        if [each["label"] for each in found] != expected.labels.tolist():
            others += 1
            continue
        for each, box, score in zip(found, expected.boxes, expected.scores, strict=True):
            boxes.append(float((torch.tensor(each["box"]) - box).abs().max()))
            scores.append(abs(each["score"] - float(score)))
    times = sorted(1000 * seconds for seconds, _ in answers)
    sys.stdout.write(
        f"{len(images)} photos, {others} with other detections; else boxes within "
        f"{max(boxes):.1e} px and scores within {max(scores):.1e}; {statistics.median(times):.0f} "
        f"ms a photo ({times[0]:.0f} to {times[-1]:.0f})\n"
    )


if __name__ == "__main__":
    main()
