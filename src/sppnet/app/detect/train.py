"""``sppnet detect train``: one job, resumable, with its plan said beforehand."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sppnet.app.console import (
    SOME_FAILED,
    human_bytes,
    human_seconds,
    note,
    options_to_blame,
    report_data_changes,
    report_problems,
    say,
    say_table,
    warn,
)
from sppnet.app.options import choose_device
from sppnet.app.progress import Stage, announce, track
from sppnet.detection import (
    DetectionConfig,
    Detector,
    Encoder,
    ExternalProposals,
    build_cached_features,
    build_encoder,
    propose,
    train_detector,
)
from sppnet.detection.train import wants_mirror
from sppnet.errors import InputError, NothingUsableError, Problem
from sppnet.images import DetectionDataset, LabelledImage, load_compact, open_detection_dataset
from sppnet.storage import (
    FeatureCache,
    LearntFile,
    RunData,
    RunFolder,
    ensure_output_folder,
    is_model,
    read_json,
    write_json,
)
from sppnet.training.checkpoints import Checkpoints

PROBE_IMAGES = 3  # measured before the long part, to say how long it will take


@dataclass
class TrainingJob:
    """What ``detect train`` was asked to do.

    Args:
        data: Folder of the data set.
        split: Part of it to learn from.
        out: Folder of the run.
        config: What the detector is to be.
        device: Where to compute, as the option says it.
        workers: Threads that look for proposals.
        cache: Where maps and proposals are kept; ``out``/cache if None.
        download: Whether missing weights may be downloaded.
    """

    data: Path
    split: str | None
    out: Path
    config: DetectionConfig
    device: str = "auto"
    workers: int = 2
    cache: Path | None = None
    download: bool = False

    @property
    def cache_folder(self) -> Path:
        """Where maps and proposals are kept."""
        return self.cache or self.out / "cache"

    def explain(self) -> None:
        """Say what training would do: counts, disk space and the time it takes; write nothing."""
        dataset = self._open()
        objects = sum(len(image.boxes) for image in dataset)
        encoder = self._build_encoder(dataset)
        stages, map_bytes = measure_stages(dataset, encoder, self._proposals(), self.config)
        say(
            f"would train on {len(dataset)} images, {objects} objects, {len(dataset.names)} classes"
        )
        say(f"would convolve {describe_scales(encoder)}")
        say(f"would write about {human_bytes(map_bytes)} of feature maps to {self.cache_folder}")
        announce(stages)
        report_problems(dataset.problems)

    def run(self, *, fresh: bool = False) -> int:
        """Train, or continue a run that was stopped; returns the exit code."""
        dataset = self._open()
        ensure_output_folder(self.out)
        wanted = {**asdict(self.config), "data": str(self.data.resolve()), "split": self.split}
        seed = wanted.pop("seed")  # a run names it beside the rest
        with RunFolder.open(
            self.out,
            "detect train",
            wanted,
            seed,
            fresh=fresh,
            data=self._data(dataset),
            state=("tuning",),
        ) as run:
            for change in run.changes:
                warn(change)
            report_data_changes(run)
            if run.is_done("model") and is_model(self.out / "model"):
                note(f"{self.out} holds a finished run; --fresh trains again")
                return self._report_again(dataset)
            encoder, external = self._build_encoder(dataset), self._proposals()
            note(f"convolving {describe_scales(encoder)}")
            announce(measure_stages(dataset, encoder, external, self.config)[0])
            cache = FeatureCache(self.cache_folder)
            cached = build_cached_features(
                self.config, dataset.images, encoder, cache, external=external
            )
            detector = train_detector(
                cached,
                dataset.names,
                self.config,
                workers=self.workers,
                track=track,
                stage=run.stage,
                checkpoints=Checkpoints(self.out / "tuning"),
            )
            with run.stage("save"):
                about = {**wanted, "data": self.data.name, "seed": seed}
                detector.save(self.out / "model", extra=about)
            problems = [*dataset.problems, *cached.problems]
            usable = len(cached.usable)
            self._write_metrics(run.seconds(), dataset, detector, usable, problems)
            run.mark_done("model")
        self._summarise(run.seconds())
        points = detector.operating_points
        if points is not None:
            say(points.describe(dataset.names))
        else:
            say("no operating point was found; `sppnet detect val` finds it on labelled photos")
        return report_problems(problems)

    def _open(self) -> DetectionDataset:
        """Read the annotations; one bad file is a problem, no usable file is an error."""
        dataset = open_detection_dataset(self.data, self.split)
        if not any(len(image.boxes) for image in dataset):
            report_problems(dataset.problems)
            part = f"split {self.split!r}" if self.split else "the data set"
            raise NothingUsableError(
                f"{part} has no image with an object to learn from", path=self.data
            )
        return dataset

    def _data(self, dataset: DetectionDataset) -> RunData:
        """What is learnt from: images, their boxes, and files that the settings name."""
        files = [LearntFile(image.path, label_text(image)) for image in dataset]
        weights = Path(self.config.weights)
        inputs = [path for path in (weights, self.config.proposals_file) if path and path.is_file()]
        return RunData(self.data, files, dataset.names, inputs)

    def _proposals(self) -> ExternalProposals | None:
        """Read the file of proposals, if the configuration names one."""
        path = self.config.proposals_file
        return None if path is None else ExternalProposals.open(path)

    def _build_encoder(self, dataset: DetectionDataset) -> Encoder:
        """Build the encoder; random weights follow the seed."""
        device = choose_device(self.device)
        torch.manual_seed(self.config.seed)
        with options_to_blame():
            encoder = build_encoder(self.config, dataset.images, download=self.download)
        encoder.backbone.to(device)
        return encoder

    def _write_metrics(
        self,
        seconds: dict[str, float],
        dataset: DetectionDataset,
        detector: Detector,
        usable: int,
        problems: Sequence[Problem],
    ) -> None:
        """Leave the figures of the run beside the model."""
        metrics: dict[str, Any] = {
            "images": usable,
            "objects": sum(len(image.boxes) for image in dataset),
            "imgsz": list(detector.encoder.short_sides),
            "names": list(dataset.names),
            "seconds": {**seconds, "total": sum(seconds.values())},
            "threads": torch.get_num_threads(),
            "settings": asdict(self.config),
            "seed": self.config.seed,
            "problems": [str(problem) for problem in problems],
            "operating_points": None
            if detector.operating_points is None
            else detector.operating_points.config(),
        }
        write_json(self.out / "metrics.json", metrics)

    def _report_again(self, dataset: DetectionDataset) -> int:
        """End a finished run as it ended before, with the images that could not be decoded."""
        code = report_problems(dataset.problems)
        known = {str(problem) for problem in dataset.problems}
        metrics = read_json(self.out / "metrics.json")
        for line in [line for line in metrics["problems"] if line not in known]:
            warn(line)
            code = SOME_FAILED
        return code

    def _summarise(self, seconds: dict[str, float]) -> None:
        """Show the time of each stage and where the model is."""
        rows = [(name, human_seconds(value)) for name, value in seconds.items()]
        say_table(("stage", "time"), [*rows, ("total", human_seconds(sum(seconds.values())))])
        say(f"model: {self.out / 'model'}")


def label_text(image: LabelledImage) -> str:
    """All that is learnt about an image, as text."""
    marks = (image.boxes, image.labels, image.difficult, image.crowd)
    return repr([image.size_hw, *(each.tolist() for each in marks)])


def describe_scales(encoder: Encoder) -> str:
    """Say at which sizes images are convolved; objects may have chosen them."""
    sides = " and ".join(map(str, encoder.short_sides))
    return f"images at a short side of {sides} pixels"


def measure_stages(
    dataset: DetectionDataset,
    encoder: Encoder,
    external: ExternalProposals | None,
    config: DetectionConfig,
) -> tuple[list[Stage], float]:
    """Time the work on a few images spread over the data set.

    Args:
        dataset: The images.
        encoder: Makes the maps.
        external: Proposals from a file; None if they are searched.
        config: Says how proposals are found.

    Returns:
        The stages with the seconds that they will take, and the bytes of all feature maps.
    """
    seconds = {"proposals": 0.0, "features": 0.0, "svm": 0.0}
    map_bytes, measured = 0, 0
    step = max(1, len(dataset) // PROBE_IMAGES)
    for image in dataset.images[::step][:PROBE_IMAGES]:
        try:
            pixels = load_compact(image.path)
        except InputError:
            continue  # reported where the image is used
        times = [time.perf_counter()]
        proposals = _propose(image, pixels, external, config)
        times.append(time.perf_counter())
        encoded = encoder.encode(pixels)
        times.append(time.perf_counter())
        encoder.describe(encoded, proposals)
        times.append(time.perf_counter())
        for name, start, end in zip(seconds, times, times[1:], strict=False):
            seconds[name] += end - start
        map_bytes += sum(each.nbytes for each in encoded.maps)
        measured += 1
    share = len(dataset) / max(measured, 1)
    num_classes, wish = (
        len(dataset.names),
        (config.mirror, config.use_difficult, config.few_objects),
    )
    views = 2 if wants_mirror(dataset.images, num_classes, *wish) else 1
    seconds |= {name: views * seconds[name] for name in ("features", "svm")}
    stages = [Stage(name, value * share) for name, value in seconds.items()]
    return stages, map_bytes * share * views


def _propose(
    image: LabelledImage,
    pixels: Tensor,
    external: ExternalProposals | None,
    config: DetectionConfig,
) -> Tensor:
    """(W, 4) proposals of one image, as training will have them."""
    if external is not None:
        return external.look_up(image.path, image.size_hw)
    return propose(
        pixels,
        config.proposals,
        config.max_proposals,
        config.seed,
        search_side=config.search_side,
        least_side=config.least_side,
    )
