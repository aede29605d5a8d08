"""What `fuzz.py` feeds the package with: for each kind its samples, a change, and the reader.

The samples of annotations and models are those of the tests, so that a new layout or part is
fuzzed as soon as it is tested.
"""

import contextlib
import io
import json
import os
import shutil
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from fuzz_mutations import change_value, spoil_bytes, spoil_file, spoil_json  # noqa: E402
from fuzz_samples import (  # noqa: E402
    built_images,
    detection_results,
    hostile_npz,
    mat_files,
    npz_files,
    pillow_images,
    proposal_texts,
    real_photos,
    repacked_mat,
)
from image_files import photo  # noqa: E402
from sppnet.errors import SppnetError  # noqa: E402


class Kind(ABC):
    """One kind of input.

    Args:
        folder: An empty folder for the samples and the inputs made of them.
        real: A folder of real photos and annotations, in the layout of the tests' data, or None.
    """

    def __init__(self, folder: Path, real: Path | None) -> None:
        self.folder = folder
        self.real = real

    @abstractmethod
    def make(self, draw: Random) -> None:
        """Write one input that only the random numbers decide."""

    @abstractmethod
    def read(self) -> None:
        """Let the package read it; whatever is wrong with the answer is an ``AssertionError``."""


class Images(Kind):
    """Image files of all formats, decoded in all ways.

    At the usual limit of 100,000,000 pixels a whole image may take a gigabyte; here it is so low
    that none may take 500 MB (12 bytes a pixel).
    """

    def __init__(self, folder: Path, real: Path | None) -> None:
        super().__init__(folder, real)
        os.environ["SPPNET_MAX_PIXELS"] = "40000000"
        self.samples = [*pillow_images(), *built_images(), *real_photos(real)]

    def make(self, draw: Random) -> None:
        """Change the bytes of an image."""
        data = spoil_bytes(draw, draw.choice(self.samples), self.samples)
        (self.folder / "input").write_bytes(data)

    def read(self) -> None:
        """Decode it whole, compact and cut, and read its size."""
        from sppnet.images import load_image, read_image_size

        path = self.folder / "input"
        ways: list[Callable[[], Any]] = [
            lambda: read_image_size(path),
            lambda: load_image(path),
            lambda: load_image(path, compact=True, allow_truncated=True),
        ]
        size, count, refusal = None, 0, None
        for way in ways:
            try:
                answer = way()
            except SppnetError as error:
                check_line(error)
                refusal = error
                continue
            count += 1
            if isinstance(answer, tuple):
                size = answer
            else:
                _check_pixels(answer, size)
            del answer  # one image at a time is what is measured
        if refusal is not None and count < 2:
            raise refusal


def _check_pixels(image: Any, size: tuple[int, int] | None) -> None:
    assert image.shape[0] == 3, f"shape {tuple(image.shape)}"
    assert size is None or tuple(image.shape[1:]) == size, f"{size} {image.shape}"
    assert image.max() <= (255 if image.itemsize == 1 else 1), "values beyond 1"
    assert image.min() >= 0, "values below 0"


class Annotations(Kind):
    """Data sets of all layouts with files changed, moved and missing, read by ``sppnet check``."""

    def __init__(self, folder: Path, real: Path | None) -> None:
        super().__init__(folder, real)
        from images.readers.layout_shapes import SHAPES

        for write in SHAPES:
            write(folder / "samples" / write.__name__)
        for name in ("raccoon", "bccd") if real else ():
            _copy_some(real / name, folder / "samples" / name)
        (folder / "samples" / "classes" / "cat").mkdir(parents=True)
        photo(20, 30).save(folder / "samples" / "classes" / "cat" / "a.png")
        self.samples = sorted((folder / "samples").iterdir())

    def make(self, draw: Random) -> None:
        """Copy a set and change one file, at times several, or what lies where."""
        place = self.folder / "input"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(draw.choice(self.samples), place)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        texts = [path for path in files if path.suffix not in (".jpg", ".png")]
        for _ in range(draw.choice((1, 1, 1, 2))):
            if not texts or draw.random() < 0.1:
                _move(draw, files, place)
            else:
                path = draw.choice(texts)
                if path.is_file():
                    path.write_bytes(spoil_file(draw, path.read_bytes(), path.suffix))

    def read(self) -> None:
        """Check it, and read it again with the classes of a model."""
        from sppnet.images import open_detection_dataset

        place = self.folder / "input"
        run_command("check", str(place), "--json", str(self.folder / "report.json"))
        json.loads((self.folder / "report.json").read_bytes())
        for image in open_detection_dataset(place, names=["7", "traffic light", "raccoon"]):
            assert (image.boxes[:, 2:] > image.boxes[:, :2]).all(), f"{image.boxes}"
            assert image.boxes.isfinite().all(), f"{image.boxes}"


class Trainings(Annotations):
    """The same data sets, on whose labels a small detector is fine-tuned and fitted."""

    def read(self) -> None:
        """Train on what can be read; losses, and weights that gradients made, must be finite."""
        import torch

        from sppnet.backbones import build_backbone
        from sppnet.config.detection import DetectionConfig
        from sppnet.detection import Encoder
        from sppnet.detection.train import build_cached_features, train_detector
        from sppnet.images import open_detection_dataset
        from sppnet.storage import FeatureCache

        torch.set_num_threads(1)
        torch.manual_seed(0)
        config = DetectionConfig(
            proposals="grid",
            max_proposals=20,
            max_anchors=20,
            tune="network",
            tune_updates=3,
            widths=(8, 8),
            mirror="off",
        )
        dataset = open_detection_dataset(self.folder / "input")
        encoder = Encoder(build_backbone("small5"), short_sides=(32,), levels=(1, 2))
        shutil.rmtree(self.folder / "made", ignore_errors=True)
        cache = FeatureCache(self.folder / "made" / "cache")
        cached = build_cached_features(config, dataset.images, encoder, cache)
        try:
            detector = train_detector(cached, dataset.names, config, workers=1)
        except SppnetError as error:
            if "not finite" in error.message:
                raise AssertionError(error.message) from error
            raise
        detector.save(self.folder / "made" / "model")  # which refuses weights that are not finite


def _copy_some(source: Path, target: Path, count: int = 3) -> None:
    """The first images of a VOC set with their annotations and lists."""
    for path in sorted((source / "Annotations").glob("*.xml"))[:count]:
        for part, ending in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
            (target / part).mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(
                    source / part / (path.stem + ending), target / part / (path.stem + ending)
                )
    with contextlib.suppress(FileNotFoundError):
        shutil.copytree(source / "ImageSets", target / "ImageSets")


def _move(draw: Random, files: list[Path], place: Path) -> None:
    """Take a file away, or put it, a folder or a link under a hostile name."""
    path = draw.choice(files)
    if not path.is_file():
        return
    names = (
        "a\nb.jpg",
        "=1.txt",
        "\x1b[31m.xml",
        "x.json",
        "data.yaml",
        "classes.txt",
        "train",
        "é.jpg",
    )
    other = draw.choice((path.with_name(draw.choice(names)), place / draw.choice(names)))
    way = draw.randrange(5)
    if way == 0:
        path.unlink()
    elif way == 1 and not other.exists():
        path.rename(other)
    elif way == 2 and not other.exists():
        shutil.copyfile(path, other)
    elif way == 3:
        path.unlink()
        path.mkdir()
    elif not other.exists():
        other.symlink_to(draw.choice(("nowhere", ".", "..", str(path), str(other))))


class Proposals(Kind):
    """Files of proposals: npz, MAT and JSON."""

    def __init__(self, folder: Path, real: Path | None) -> None:
        super().__init__(folder, real)
        self.samples = {".npz": npz_files(), ".mat": mat_files(), ".json": proposal_texts()}
        self.path = folder / "input.npz"

    def make(self, draw: Random) -> None:
        """Change the bytes, the headers of arrays or the values of a file."""
        ending = draw.choice(sorted(self.samples))
        samples = self.samples[ending]
        if ending == ".npz" and draw.random() < 0.5:
            data = hostile_npz(draw)
        else:
            data = spoil_file(draw, draw.choice(samples), ending, samples)
        if ending == ".mat" and draw.random() < 0.5:
            data = repacked_mat(draw, draw.choice(samples[:2]))
        self.path = self.folder / f"input{ending}"
        self.path.write_bytes(data)

    def read(self) -> None:
        """Open it and look images up."""
        from sppnet.detection.proposals.precomputed import ExternalProposals

        found = ExternalProposals.open(self.path)
        for name in ("a.jpg", "b/000007.png", "7", "x\ny"):
            found.digest(name)
            with contextlib.suppress(SppnetError):
                boxes = found.look_up(name, (60, 80))
                assert boxes.shape[1:] == (4,), f"shape {tuple(boxes.shape)}"
                assert boxes.isfinite().all(), "not finite"


class Detections(Kind):
    """Result files against a small truth, scored by ``sppnet evaluate``."""

    def __init__(self, folder: Path, real: Path | None) -> None:
        super().__init__(folder, real)
        from images.readers.layout_shapes import cvat_coco, label_img_voc

        self.truths = [folder / "coco" / "annotations" / "instances_train.json", folder / "voc"]
        cvat_coco(folder / "coco")
        label_img_voc(folder / "voc")
        self.path, self.truth = folder, folder

    def make(self, draw: Random) -> None:
        """Change a file of results of any form."""
        self.truth = draw.choice(self.truths)
        ending = draw.choice((".json", ".csv", ".txt"))
        data = spoil_file(draw, detection_results(draw, ending), ending)
        self.path = self.folder / f"input{ending}"
        if ending == ".txt":
            self.path = self.folder / "input"
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir()
            (self.path / "b.txt").write_bytes(detection_results(draw, ending))
            (self.path / "a.txt").write_bytes(data)
        else:
            self.path.write_bytes(data)

    def read(self) -> None:
        """Score it; the figures must be JSON."""
        place = self.folder / "figures.json"
        run_command("evaluate", str(self.truth), str(self.path), "--json", str(place))
        figures = json.loads(place.read_bytes())
        assert figures["mean_ap"] is None or 0 <= figures["mean_ap"] <= 1, f"{figures['mean_ap']}"


class Models(Kind):
    """Model folders and training states with changed fields or tensors, signed again."""

    def __init__(self, folder: Path, real: Path | None) -> None:
        super().__init__(folder, real)
        import torch

        from resigned_models import make_classifier, make_detector
        from sppnet.training.checkpoints import Checkpoints, TrainingState

        torch.set_num_threads(1)
        self.image = torch.rand(3, 50, 70)
        samples = folder / "samples"
        for kind in ("linear", "softmax", "kernel", "prefiltered"):
            make_detector(kind).save(samples / f"detector-{kind}")
        for kind in ("spp", "average", "hidden", "carried", "transfer"):
            make_classifier(kind).save(samples / f"classifier-{kind}")
        rows = [{"epoch": 1, "loss": 0.5}]
        state = TrainingState(1, 2, 0.5, 3, 1.5, rows, 2, 4, 5, {"network.w": torch.ones(2)})
        Checkpoints(samples / "state").save(state)
        (samples / "state" / "epoch-00001-update-0000002").rename(samples / "state-1")
        (samples / "state").rmdir()
        self.samples = sorted(samples.iterdir())
        self.sample = self.samples[0]

    def make(self, draw: Random) -> None:
        """Change fields, or the header or bytes of the tensors, and sign the folder."""
        from resigned_models import sign

        self.sample = draw.choice(self.samples)
        place = self.folder / "input" / "epoch-00001"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.sample, place)
        config = (place / "config.json").read_bytes()
        tensors = (place / "model.safetensors").read_bytes()
        if draw.random() < 0.75:
            config = spoil_json(draw, config)
        else:
            tensors = _spoil_tensors(draw, tensors)
        sign(place, config, tensors)

    def read(self) -> None:
        """Load it and use it once."""
        from sppnet.classification import Classifier
        from sppnet.classification.transfer.fit import TransferClassifier
        from sppnet.detection import Detector
        from sppnet.training.checkpoints import Checkpoints

        place = self.folder / "input" / "epoch-00001"
        if self.sample.name.startswith("state"):
            Checkpoints(place.parent).newest()
            return
        kinds = {"detector": Detector, "classifier": Classifier}
        load = kinds[self.sample.name.partition("-")[0]]
        load = TransferClassifier if "transfer" in self.sample.name else load
        load.load(place).predict(self.image)


def _spoil_tensors(draw: Random, data: bytes) -> bytes:
    """Change the header of a safetensors file, or any of its bytes."""
    (size,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    way = draw.randrange(4)
    if way == 0:
        return spoil_bytes(draw, data)
    entry = header[draw.choice(sorted(header))]
    if way == 1:
        kinds = ("F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "F4", "C64", "U64", "X", "", None)
        entry["dtype"] = draw.choice(kinds)
    elif way == 2:
        shapes = ([], [0], [-1], [2**40], [2**63, 2], [1] * 70, "x", [1.5], [None], None)
        entry["shape"] = draw.choice(shapes)
    else:
        header = change_value(draw, header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def check_line(error: SppnetError) -> None:
    """A refusal is one line of a length that a person reads."""
    text = str(error)
    assert text.isprintable(), f"control characters in {text[:100]!r}"
    assert len(text) < 3000, f"{len(text)} characters: {text[:100]!r}"


class RefusedError(SppnetError):
    """A command ended with a line and one of its exit codes."""


def run_command(*words: str) -> None:
    """Run a command line in this process.

    Raises:
        RefusedError: If it refused with one line.
        AssertionError: If it ended as a bug, or said more than lines.
    """
    from sppnet.app.main import main

    said, complaints = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaints):
        code = main(list(words))
    text = complaints.getvalue()
    assert code != 1, text[-2000:]
    lines = text.splitlines() + said.getvalue().splitlines()
    assert all(line.isprintable() for line in lines), "control characters in the output"
    if code not in (0, 3):
        assert sum("error:" in line for line in lines) >= 1, f"exit {code} without a line"
        raise RefusedError(lines[-1][:200])


KINDS: dict[str, type[Kind]] = {
    "images": Images,
    "annotations": Annotations,
    "trainings": Trainings,
    "proposals": Proposals,
    "detections": Detections,
    "models": Models,
}
