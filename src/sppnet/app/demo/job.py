"""What ``sppnet demo`` does: run the steps, measure, write the report."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sppnet.app.console import human_seconds, note, say, say_table, warn
from sppnet.app.demo.config import DemoConfig
from sppnet.app.demo.figures import draw_montage
from sppnet.app.demo.measure import measure
from sppnet.app.demo.report import write_demo_report
from sppnet.app.demo.scores import CONTENDERS, TRAINED, DemoScores
from sppnet.app.demo.steps import STEPS, DemoFolder, DemoSteps
from sppnet.app.options import choose_device
from sppnet.app.progress import Plan, Stage, announce
from sppnet.detection import Detector
from sppnet.errors import UsageError
from sppnet.evaluation import best_operating_point, to_jpeg_bytes
from sppnet.storage import (
    RunFolder,
    ensure_output_folder,
    holds_run_of,
    read_json,
    write_bytes,
    write_json,
)

COMMAND = "demo"
# Seconds of each step on two quiet cores, for the time left; the times taken are in metrics.json.
USUAL_SECONDS = {"draw": 15, "classifier": 16, "detector": 25, "untrained": 17, "score": 12}
MONTAGE_SCENES = 12


@dataclass
class DemoJob:
    """What ``sppnet demo`` was asked to do.

    Args:
        out: Folder for everything.
        seed: Of everything that is random.
        device: Where to compute, as the option says it.
        config: How much to draw and to learn.
    """

    out: Path
    seed: int = 0
    device: str = "auto"
    config: DemoConfig = field(default_factory=DemoConfig)

    def explain(self) -> None:
        """Say what the demo would do; write nothing."""
        config, seconds = self.config, sum(USUAL_SECONDS.values())
        choose_device(self.device)
        say(f"would draw {config.scenes} scenes and {config.images_per_class} images of each class")
        say(f"would train a classifier for {config.epochs} epochs, sizes {_in_turn(config.sizes)}")
        say(
            f"would train a detector on {config.train_scenes} scenes, score on {config.test_scenes}"
        )
        say(f"would write 30 MB to {self.out}, ten times that while it runs")
        say(f"about {human_seconds(seconds)} on two cores, without a download")

    def run(self, *, fresh: bool = False) -> None:
        """Run it, or go on where an earlier run stopped, and say where the report is."""
        choose_device(self.device)
        folder = DemoFolder(ensure_output_folder(self.out))
        _check_ours(folder)
        with RunFolder.open(
            self.out, COMMAND, self.config.to_json(), self.seed, fresh=fresh
        ) as run:
            for change in run.changes:
                warn(change)
            if run.is_done("score"):
                note(f"{self.out} holds a finished demo; --fresh does it again")
            else:
                stages = [Stage(name, USUAL_SECONDS[name], run.is_done(name)) for name in STEPS]
                announce(stages)
                plan = Plan(stages, run.stage)
                steps = DemoSteps(folder, self.config, self.seed, self.device, run, plan)
                steps.do_all()
                self._finish(steps, run)
        self._summarise()

    def _finish(self, steps: DemoSteps, run: RunFolder) -> None:
        """Score, and write the report and the figures."""
        with steps.plan.stage("score"):
            scores = measure(steps)
            write_bytes(self.out / "detections.jpg", _montage(scores))
        seconds = {name: run.seconds().get(name, 0.0) for name in STEPS}
        seconds["total"] = sum(seconds.values())
        detector = Detector.load(steps.folder.detector, choose_device(self.device))
        about = read_json(self.out / "run.json")
        write_demo_report(self.out / "report.html", steps, scores, seconds, detector, about)
        metrics: dict[str, Any] = {
            **scores.to_json(),
            "history": steps.history(),
            "seconds": seconds,
            "threads": torch.get_num_threads(),
            "seed": self.seed,
            "plan": self.config.to_json(),
        }
        write_json(self.out / "metrics.json", metrics)
        run.mark_done("score")

    def _summarise(self) -> None:
        """Print the figures and where the report is."""
        metrics = read_json(self.out / "metrics.json")
        rows = [
            (
                name,
                f"{metrics['detector'][name]['ap50']:.3f}",
                f"{metrics['classifier'][name]['top1']:.3f}",
            )
            for name in CONTENDERS
        ]
        say_table(("on held-out drawings", "detector AP50", "classifier top-1"), rows)
        say(f"took {human_seconds(metrics['seconds']['total'])}, from nothing")
        say(f"report: {self.out / 'report.html'}")


def _check_ours(folder: DemoFolder) -> None:
    """Refuse a folder in which what the demo writes would mix with something else."""
    if holds_run_of(COMMAND, folder.path, "the demo"):
        return
    for part in folder.parts():
        if part.exists():
            raise UsageError(
                f"holds {part.name!r} already; choose another folder", path=folder.path
            )


def _montage(scores: DemoScores) -> bytes:
    """The first held-out scenes with at least two objects, as one JPEG; nothing is picked."""
    scenes = [image for image in scores.images if len(image.labels) > 1][:MONTAGE_SCENES]
    found = scores.detections[TRAINED]
    threshold = best_operating_point(scores.images, found).score_threshold
    picture = draw_montage(scenes, found, scores.names, threshold)
    return to_jpeg_bytes(picture, max_side=picture.width, quality=82)


def _in_turn(sizes: tuple[int, ...]) -> str:
    """Sizes in words."""
    return " and ".join(map(str, sizes)) + " in turn"
