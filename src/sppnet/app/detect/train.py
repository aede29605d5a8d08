"""``sppnet detect train``: one job, resumable, with its plan said beforehand."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from warnings import catch_warnings, simplefilter

import torch

from sppnet.app.console import (
    SOME_FAILED,
    cache_of_run,
    human_bytes,
    human_seconds,
    in_silence,
    note,
    options_to_blame,
    report_data_changes,
    report_problems,
    say,
    say_table,
    warn,
    warn_of_space,
)
from sppnet.app.detect.budget import FEWEST_PHOTOS, Budget, Trial
from sppnet.app.options import choose_device
from sppnet.app.progress import Plan, Stage, announce, track
from sppnet.detection import (
    DetectionConfig,
    Detector,
    Encoder,
    ExternalProposals,
    build_cached_features,
    build_encoder,
    train_detector,
)
from sppnet.detection.assign import choose_views
from sppnet.detection.finetune.network import tune_network
from sppnet.detection.train import FEW_PHOTOS, network_tuning_config
from sppnet.errors import NothingUsableError, Problem, SppnetError, UsageError, count_of
from sppnet.images import DetectionDataset, LabelledImage, open_detection_dataset
from sppnet.storage import (
    FeatureCache,
    LearntFile,
    RunData,
    RunFolder,
    Stages,
    ensure_output_folder,
    is_model,
    read_json,
    write_json,
)
from sppnet.training.checkpoints import Checkpoints
from sppnet.training.distributed import Processes, join_processes, local_device
from sppnet.training.trainer import ALONE

# Trained on before the long part, to say how long that will take; of few images fewer.
PROBE_IMAGES, SHARE_TO_PROBE, PROBE_UPDATES = 3, 4, 4
TRIALS = "trials"  # folder of what was tried
SECONDS_PER_MINUTE = 60.0
GIGABYTE = 10**9
ALL_SHOW_THINGS = (
    "every photo shows a thing, so nobody knows what it takes for one where there is none: photos "
    "without things, kept as empty, tell and teach it"
)


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
        keep_cache: Whether maps and proposals stay in ``out``/cache when the model stands.
        budget: Minutes in which settings are tried on held-out photos; None takes them as given.
        cache_size: The most GB that maps and proposals may take on disk; None for no limit.
        processes: Who takes part in the fine-tuning; filled in by ``run``.
    """

    data: Path
    split: str | None
    out: Path
    config: DetectionConfig
    device: str = "auto"
    workers: int = 2
    cache: Path | None = None
    download: bool = False
    keep_cache: bool = False
    budget: float | None = None
    cache_size: float | None = None
    processes: Processes = ALONE

    @property
    def most_bytes(self) -> int | None:
        """The most that maps and proposals may take on disk; None for no limit."""
        return None if self.cache_size is None else round(self.cache_size * GIGABYTE)

    @property
    def cache_folder(self) -> Path:
        """Where maps and proposals are kept."""
        return self.cache or self.out / "cache"

    def explain(self) -> None:
        """Say what training would do: counts, disk space and the time it takes; write nothing."""
        dataset = self._open()
        objects = sum(len(image.boxes) for image in dataset)
        encoder = self._build_encoder(dataset)
        with TemporaryDirectory() as folder:
            cache = FeatureCache(folder)
            stages, share = self._measure(dataset, encoder, self._proposals(), cache)
            map_bytes = share * cache.num_bytes()
        images = f"{count_of(len(dataset), 'image')}, {count_of(objects, 'object')}"
        say(f"would train on {images}, {count_of(len(dataset.names), 'class')}")
        say(f"would convolve {describe_scales(encoder)}")
        say(self._describe_disk(map_bytes, len(dataset)))
        if self.budget is not None:
            say(f"would try settings on held-out photos, {self.budget:g} min with the training")
        announce(stages)
        report_problems(dataset.problems)

    def _describe_disk(self, map_bytes: float, images: int) -> str:
        """Say how much would be written, for each photo and in all, and what is not kept."""
        each = f"{human_bytes(map_bytes / max(1, images))} a photo"
        text = f"would write about {human_bytes(map_bytes)} of feature maps to {self.cache_folder}"
        most = self.most_bytes
        if most is None or map_bytes <= most:
            return f"{text}, {each}"
        share = f"at most {human_bytes(most)} of them are kept, {most / map_bytes:.0%}"
        return f"{text}, {each}; {share}: the rest is convolved again in each pass"

    def run(self, *, fresh: bool = False) -> int:
        """Train, or continue a run that was stopped; returns the exit code.

        Under ``torchrun`` the first process does everything, and the others help it with the
        fine-tuning.
        """
        device = local_device(choose_device(self.device))
        with join_processes(device) as processes, in_silence(not processes.is_first):
            if processes.count > 1 and self.config.tune != "network":
                rule = "several processes share the updates of a fine-tuning: --tune network"
                raise UsageError(rule)
            job = replace(self, device=str(device), processes=processes)
            return job._lead(fresh) if processes.is_first else job._follow()

    def _follow(self) -> int:
        """Take part in the fine-tuning of the first process, and write nothing of the run.

        Proposals are taken from its cache where this process sees the same disk.
        """
        dataset = self._open()
        encoder = self._build_encoder(dataset)
        found = self.processes.broadcast_bytes(b"")
        if not found:  # the run was finished before
            return 0
        cached = build_cached_features(
            self.config,
            dataset.images,
            encoder,
            FeatureCache(self.cache_folder, self.most_bytes),
            external=self._proposals(),
        )
        cached.take(found)
        tune_network(
            cached.usable,
            encoder,
            len(dataset.names),
            network_tuning_config(self.config),
            cached.propose,
            processes=self.processes,
        )
        return 0

    def _lead(self, fresh: bool) -> int:
        """Train, write and speak."""
        dataset = self._open()
        ensure_output_folder(self.out)
        wanted = {**asdict(self.config), "data": str(self.data.resolve()), "split": self.split}
        seed = wanted.pop("seed")  # a run names it beside the rest
        if self.budget is not None:
            wanted["budget"] = self.budget
        with RunFolder.open(
            self.out,
            "detect train",
            wanted,
            seed,
            fresh=fresh,
            data=self._data(dataset),
            state=("tuning", TRIALS),
        ) as run:
            for change in run.changes:
                warn(change)
            report_data_changes(run)
            if run.is_done("model") and is_model(self.out / "model"):
                note(f"{self.out} holds a finished run; --fresh trains again")
                self.processes.broadcast_bytes(b"")
                return self._report_again(dataset)
            keep = self.keep_cache or self.cache is not None
            folder, most = self.cache_folder, self.most_bytes
            with cache_of_run(folder, keep=keep, flag="--keep-cache", most_bytes=most) as cache:
                job = self if self.budget is None else self._within_budget(dataset, run, cache)
                problems, detector = job._train(dataset, run, cache, wanted)
                run.mark_done("model")
        self._summarise(run.seconds())
        points = detector.operating_points
        if points is not None:
            say(f"{points.describe(dataset.names)}; {points.expect()}")
            if all(len(image.boxes) for image in dataset):
                say(ALL_SHOW_THINGS)
        else:
            say("no operating point was found; `sppnet detect val` finds it on labelled photos")
        return report_problems(problems)

    def _within_budget(
        self, dataset: DetectionDataset, run: RunFolder, cache: FeatureCache
    ) -> "TrainingJob":
        """Choose settings on held-out photos; what was tried is kept for a run that goes on."""
        begin, file = time.monotonic(), self.out / TRIALS / "trials.json"

        def tell(trials: Sequence[Trial], best: Trial) -> None:
            kept = "the best so far" if trials[-1] is best else "no better"
            note(f"tried {trials[-1].describe()}; {kept}")
            ensure_output_folder(file.parent)
            write_json(file, {"trials": [each.to_json() for each in trials]})

        known = [Trial.restore(each) for each in self._trials()]
        encoder, external = self._build_encoder(dataset), self._proposals()
        stages, _ = self._measure(dataset, encoder, external, cache)
        training = sum(stage.seconds or 0.0 for stage in stages)
        note(f"trying settings on held-out photos for up to {self.budget:g} min, training included")
        with run.stage("trials"):
            budget = Budget(
                dataset.images,
                dataset.names,
                self.config,
                cache,
                SECONDS_PER_MINUTE * (self.budget or 0.0) - (time.monotonic() - begin),
                training,
                external,
                encoder.device,
                track,
                tell,
            )
            config, trials = budget.choose(known)
        if not trials:
            few = f"fewer than {FEWEST_PHOTOS} photos with objects say nothing of others"
            slow = (
                f"a trial and the training do not fit (training alone: {human_seconds(training)})"
            )
            note(f"{slow if budget.has_enough_photos else few}; the settings stay as given")
        return replace(self, config=config)

    def _train(
        self, dataset: DetectionDataset, run: RunFolder, cache: FeatureCache, wanted: dict[str, Any]
    ) -> tuple[list[Problem], Detector]:
        """Go through all stages, save the model and its figures; returns what was left out, too."""
        encoder, external = self._build_encoder(dataset), self._proposals()
        note(f"convolving {describe_scales(encoder)}")
        stages, _ = self._measure(dataset, encoder, external, cache)
        announce(stages)
        plan = Plan(stages, run.stage)
        cached = build_cached_features(
            self.config, dataset.images, encoder, cache, external=external
        )
        detector = train_detector(
            cached,
            dataset.names,
            self.config,
            workers=self.workers,
            track=track,
            stage=plan.stage,
            checkpoints=Checkpoints(self.out / "tuning"),
            processes=self.processes,
        )
        with plan.stage("save"):
            about = {**wanted, **asdict(self.config), "data": self.data.name}
            detector.save(self.out / "model", extra=about)
        problems = [*dataset.problems, *cached.problems]
        self._write_metrics(run.seconds(), dataset, detector, len(cached.usable), problems)
        return problems, detector

    def _measure(
        self,
        dataset: DetectionDataset,
        encoder: Encoder,
        external: ExternalProposals | None,
        cache: FeatureCache,
    ) -> tuple[list[Stage], float]:
        """Train on a few images spread over the data set, and take the time of every stage.

        What is computed of them is kept, so that the run itself has it, and its size tells whether
        the disk has room for that of all images: if not, the user hears so now. Without an image
        that can be trained on there are no stages. The number is how many times as many images
        there are.
        """
        config = self.config
        views = choose_views(dataset.images, len(dataset.names), config)
        updates = min(config.tune_updates, PROBE_UPDATES)
        small = replace(views.fix(config), tune_updates=updates)
        labelled = [image for image in dataset.images if len(image.boxes)]
        count = min(PROBE_IMAGES, max(1, len(labelled) // SHARE_TO_PROBE))
        images = labelled[:: max(1, len(labelled) // count)][:count]
        cached = build_cached_features(small, images, encoder, cache, external=external)
        stages, held = Stages(), cache.num_bytes()
        with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]), catch_warnings():
            simplefilter("ignore")
            with suppress(SppnetError, ValueError):
                few = 0 if len(dataset) > FEW_PHOTOS else FEW_PHOTOS  # as the run will have it
                detector = train_detector(
                    cached,
                    dataset.names,
                    small,
                    workers=self.workers,
                    stage=stages.stage,
                    few_photos=few,
                )
                with stages.stage("save"):
                    detector.save(Path(folder) / "model")
        share = len(dataset) / max(1, len(cached.usable))
        planned = share * (cache.num_bytes() - held)
        warn_of_space(
            self.cache_folder,
            planned if self.most_bytes is None else min(planned, self.most_bytes),
            "--cache DIR writes elsewhere, --cache-size GB less",
        )
        factors = {"save": 1.0, "tuning": config.tune_updates / max(1, updates)}
        seconds = stages.seconds().items()
        return [Stage(name, value * factors.get(name, share)) for name, value in seconds], share

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
            "processes": self.processes.count,
            "settings": asdict(self.config),
            "trials": self._trials(),
            "seed": self.config.seed,
            "problems": [str(problem) for problem in problems],
            "operating_points": None
            if detector.operating_points is None
            else detector.operating_points.config(),
        }
        write_json(self.out / "metrics.json", metrics)

    def _trials(self) -> list[dict[str, Any]]:
        """What was tried within a budget."""
        file = self.out / TRIALS / "trials.json"
        return list(read_json(file)["trials"]) if file.exists() else []

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
