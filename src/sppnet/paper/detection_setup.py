"""Tables 9 to 12: their columns (methods) and rows, and the networks and images they need."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from sppnet.backbones import Backbone
from sppnet.backbones.weights import locate_checkpoint
from sppnet.classification import (
    convert_classifier,
    draw_sample,
    scoring_split,
    training_split,
)
from sppnet.detection import EncodedImage, Encoder
from sppnet.detection.heads.region_head import RegionHead
from sppnet.detection.rcnn import RcnnEncoder
from sppnet.errors import Problem, UsageError, count_of
from sppnet.images import (
    LabelledImage,
    find_layout,
    list_images,
    list_splits,
    open_detection_dataset,
)
from sppnet.paper.resources import (
    VOC07,
    FrozenNetwork,
    ModelSpec,
    Resources,
    find_network,
    load_stand_in,
)
from sppnet.pooling import SpatialPyramidPool, check_levels
from sppnet.pooling.bins import DEFAULT_LEVELS
from sppnet.progress import Track
from sppnet.storage import FeatureCache
from sppnet.storage.tensors import digest_of

ZF, ZF_SECOND, ALEX = "ZF-5", "second ZF-5", "Alex-5"
SPECS = {ZF: ModelSpec("ZF-5", "multi"), ZF_SECOND: ModelSpec("ZF-5", "multi-2")}
ALEX_LEVELS = (6,)
ALEX_DIFFERS = "torchvision's AlexNet"
VECTORS_VERSION = 1
T = TypeVar("T")
TEST_SHARE = 0.2  # held out where a data set has no split to score on
VOC07_IMAGES = (5011, 4952)


@dataclass(frozen=True)
class Method:
    """A column of tables 9 and 10.

    Args:
        network: Name of its network.
        short_sides: Scales of SPP-net; empty for R-CNN.
    """

    network: str
    short_sides: tuple[int, ...] = ()

    @property
    def is_rcnn(self) -> bool:
        """Whether every proposal is convolved by itself."""
        return not self.short_sides

    def label(self, track: Track) -> Track:
        """Put the method before every description of progress.

        Example:
            >>> said = []
            >>> def track(iterable, description, total=None):
            ...     said.append(description)
            ...     return iterable
            >>> loop = Method("ZF-5", (688,)).label(track)([1, 2], "timing")
            >>> said
            ['SPP-net ZF-5 at 688: timing']
        """
        sides = f" at {','.join(map(str, self.short_sides))}"
        name = f"R-CNN {self.network}" if self.is_rcnn else f"SPP-net {self.network}{sides}"

        def labelled(
            iterable: Iterable[T], description: str, total: int | None = None
        ) -> Iterable[T]:
            return track(iterable, f"{name}: {description}", total)

        return labelled


@dataclass(frozen=True)
class Row:
    """A row of table 9: what the SVMs see, and what happens to the boxes.

    Args:
        layer: ``pooled``, ``fc6`` or ``fc7``.
        is_tuned: Whether fc6 and fc7 were fine-tuned.
        moves_boxes: Whether boxes are moved by regression.
    """

    layer: str
    is_tuned: bool = False
    moves_boxes: bool = False


ROWS = {
    "pool5": Row("pooled"),
    "fc6": Row("fc6"),
    "ft fc6": Row("fc6", is_tuned=True),
    "ft fc7": Row("fc7", is_tuned=True),
    "ft fc7 bb": Row("fc7", is_tuned=True, moves_boxes=True),
}


@dataclass(frozen=True)
class DetectionNetwork:
    """A network whose trunk makes the maps, and whose hidden layers describe proposals.

    Args:
        backbone: Its trunk.
        levels: Bins along each side of its pyramid.
        hidden: fc6 and fc7 as they were trained; None where there are none that fit the pyramid.
        differs: What is not as in the paper.
        name: What it is called where its numbers stand.
    """

    backbone: Backbone
    levels: tuple[int, ...]
    hidden: tuple[nn.Linear, nn.Linear] | None
    differs: str = ""
    name: str = ""

    def build_head(
        self, length: int, num_classes: int, widths: tuple[int, int], seed: int = 0
    ) -> RegionHead:
        """Make fc6 and fc7 as they were trained, or new ones, with new logits on top.

        Args:
            length: Numbers per pooled vector.
            num_classes: K.
            widths: Of new layers.
            seed: Of new weights.

        Returns:
            The head, in evaluation mode, where the trunk is.
        """
        if self.hidden is not None:
            widths = (self.hidden[0].out_features, self.hidden[1].out_features)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = RegionHead(length, num_classes, widths)
        for name, layer in zip(("fc6", "fc7"), self.hidden or (), strict=False):
            getattr(head, name)[0].load_state_dict(layer.state_dict())
        device = next(self.backbone.parameters()).device
        return head.to(device).eval()


def find_detection_network(name: str, resources: Resources) -> DetectionNetwork | str:
    """Find a network, or what stands in for it, or say what is missing.

    Args:
        name: `ZF`, `ZF_SECOND`, `ALEX`, or the kind of another ZF-5, for which nothing stands in.
        resources: Where everything is.
    """
    if name == ALEX:
        return _find_alexnet(resources)
    spec = SPECS.get(name) or ModelSpec("ZF-5", name)
    if name == ZF_SECOND and spec.find(resources.models_folder) is None and resources.backbone:
        if not resources.second:
            return "a second network; let --second NAME stand in"
        return _stand_in(resources.second, resources.second_weights, resources)
    if name not in SPECS and spec.find(resources.models_folder) is None:
        return spec.missing(resources.models_folder)
    found = find_network(spec, resources)
    return found if isinstance(found, str) else _of_frozen(found)


def _find_alexnet(resources: Resources) -> DetectionNetwork | str:
    """Take torchvision's AlexNet if its weights are there."""
    try:
        network = convert_classifier("alexnet", levels=ALEX_LEVELS, download=resources.download).to(
            resources.device
        )
    except UsageError as error:
        if resources.backbone:
            return _stand_in(resources.backbone, resources.weights, resources)
        return f"{error.message}; or let --backbone NAME stand in"
    parts = (network.backbone, network.pool, network.head, ALEX_DIFFERS, "alexnet")
    return _of_frozen(FrozenNetwork(*parts))  # type: ignore[arg-type]


def has_alexnet() -> bool:
    """Tell whether torchvision's weights of AlexNet are on disk."""
    from torchvision.models import AlexNet_Weights

    return locate_checkpoint(AlexNet_Weights.DEFAULT).is_file()


def _stand_in(name: str, weights: str, resources: Resources) -> DetectionNetwork:
    """Build what stands in for a network."""
    return _of_frozen(load_stand_in(name, weights, resources))


def _of_frozen(network: FrozenNetwork) -> DetectionNetwork:
    """Take the parts that proposals can be described by."""
    pool, head = network.pool, network.head
    about = (network.differs, network.name)
    if not isinstance(pool, SpatialPyramidPool) or not isinstance(head, nn.Sequential):
        return DetectionNetwork(network.backbone, DEFAULT_LEVELS, None, *about)
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    has_two = len(linear) == 3 and isinstance(head[0], nn.Linear)  # a norm in front is no part
    hidden = (linear[0], linear[1]) if has_two else None
    return DetectionNetwork(network.backbone, check_levels(pool.levels), hidden, *about)


class KeptRcnnEncoder(RcnnEncoder):
    """R-CNN with the feature vectors of all proposals on disk.

    They are kept in half precision, two bytes a number: VOC 2007 with 2000 proposals an image takes
    hundreds of gigabytes, as it did in 2014.

    Args:
        backbone: Convolution trunk.
        levels: Bins along each side of the crop's map, one number per level.
        cache: Where vectors are kept.

    Example:
        >>> import tempfile
        >>> from sppnet.backbones import build_backbone
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     encoder = KeptRcnnEncoder(build_backbone("small5"), (1,), FeatureCache(folder))
        ...     encoded = encoder.encode(torch.rand(3, 60, 80))
        ...     regions = encoder.assign_regions(encoded, torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
        ...     encoder.pool(encoded, regions).shape, len(list(encoder.cache.keys()))
        (torch.Size([1, 96]), 1)
    """

    def __init__(self, backbone: Backbone, levels: tuple[int, ...], cache: FeatureCache) -> None:
        super().__init__(backbone, levels)
        self.cache = cache
        self._weights = digest_of(None, backbone.state_dict())
        self._key = ""  # of the image whose vectors are at hand
        self._row_of: dict[tuple[int, ...], int] = {}
        self._vectors = torch.zeros(0, self.length, dtype=torch.float16)

    @torch.no_grad()
    def pool(self, encoded: EncodedImage, regions: Tensor) -> Tensor:
        """Look up the vectors of proposals; convolve those that were never asked for."""
        self._take_up(encoded)
        wanted = [tuple(region) for region in regions.tolist()]
        new = [region for region in dict.fromkeys(wanted) if region not in self._row_of]
        if new:
            self._add(encoded, torch.tensor(new))
        rows = torch.tensor([self._row_of[region] for region in wanted], dtype=torch.int64)
        return self._vectors[rows].float().to(self.device)

    def pool_and_multiply(self, encoded: EncodedImage, regions: Tensor, weights: Tensor) -> Tensor:
        """Multiply the vectors of proposals by a matrix."""
        return self.pool(encoded, regions) @ weights

    def _take_up(self, encoded: EncodedImage) -> None:
        """Read the cached vectors of an image, unless they are at hand."""
        pixels = encoded.maps[0].cpu().contiguous()
        key = self.cache.make_key(
            kind="R-CNN vectors",
            version=VECTORS_VERSION,
            pixels=hashlib.sha256(pixels.numpy().tobytes()).hexdigest(),
            weights=self._weights,
            encoder=repr(sorted(self.config().items())),
        )
        if key == self._key:
            return
        nothing = {"cells": torch.zeros(0, 5, dtype=torch.int64), "vectors": self._vectors[:0]}
        record = self.cache.get(key) or nothing
        self._key, self._vectors = key, record["vectors"]
        self._row_of = {tuple(cell): row for row, cell in enumerate(record["cells"].tolist())}

    def _add(self, encoded: EncodedImage, regions: Tensor) -> None:
        """Convolve proposals and cache their vectors."""
        vectors = super().pool(encoded, regions).cpu().half()
        for region in regions.tolist():
            self._row_of[tuple(region)] = len(self._row_of)
        self._vectors = torch.cat([self._vectors, vectors])
        kept = {"cells": torch.tensor(list(self._row_of)), "vectors": self._vectors}
        self.cache.put(self._key, kept)


def build_method_encoder(
    method: Method, network: DetectionNetwork, cache: FeatureCache | None = None
) -> Encoder:
    """Build the encoder of a method; the long side of images has no limit, as in the paper.

    Args:
        method: SPP-net at some scales, or R-CNN.
        network: Gives the trunk and the pyramid.
        cache: Where R-CNN's vectors are kept; None computes them whenever they are asked for.
    """
    if not method.is_rcnn:
        return Encoder(network.backbone, method.short_sides, network.levels, max_long_side=None)
    if cache is None:
        return RcnnEncoder(network.backbone, network.levels)
    return KeptRcnnEncoder(network.backbone, network.levels, cache)


@dataclass(frozen=True)
class DetectionImages:
    """The images to learn from and those to score on.

    Args:
        train: Images to learn from.
        test: Images to score on.
        names: Class names.
        problems: What was wrong with files.
        differs: What is not as in the paper.
    """

    train: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...]
    names: tuple[str, ...]
    problems: tuple[Problem, ...]
    differs: str


def open_detection_images(resources: Resources) -> DetectionImages | str:
    """Open the images of the protocol, or say what is missing.

    Splits with names like VOC's are taken; without them a fifth is held out, drawn with the seed.

    Raises:
        UsageError: If the data set cannot be divided.
        NothingUsableError: If no image is usable.
    """
    root = find_detection_root(resources)
    if root is None:
        return f"{resources.missing_data(VOC07)}; or name any detection data set"
    train, test, names, problems = _divide(root, resources.seed)
    train, test = (_draw(part, resources.limit, resources.seed) for part in (train, test))
    parts = [] if root != resources.data else [f"{root.name}: {count_of(len(names), 'class')}"]
    if (len(train), len(test)) != VOC07_IMAGES:
        parts.append(f"{count_of(len(train), 'image')} to learn from, {len(test):,} to score")
    return DetectionImages(tuple(train), tuple(test), names, problems, "; ".join(parts))


def find_detection_root(resources: Resources) -> Path | None:
    """Find VOC 2007 below the data folder, or take the folder itself if boxes are in it."""
    data = resources.data
    if data is None or not data.exists():
        return None
    if (data / VOC07).is_dir():
        return data / VOC07
    return data if find_layout(data) is not None else None


def find_photos(resources: Resources) -> list[Path]:
    """Draw the images that are timed from those to score on, or from any folder of images.

    Example:
        >>> find_photos(Resources(Path("out")))
        []
    """
    images = open_detection_images(resources)
    if isinstance(images, DetectionImages):
        paths = [image.path for image in images.test]
    elif resources.data is not None:
        paths = list(list_images([resources.data]).paths)
    else:
        return []
    return _draw(paths, resources.budget.timed, resources.seed)


def _divide(
    root: Path, seed: int
) -> tuple[Sequence[LabelledImage], Sequence[LabelledImage], tuple[str, ...], tuple[Problem, ...]]:
    """Images to learn from, images to score, class names, problems."""
    splits = list_splits(root)
    learn, score = training_split(splits), scoring_split(splits)
    if learn is not None and score is not None:
        train = open_detection_dataset(root, learn)
        test = open_detection_dataset(root, score, names=train.names)
        return train.images, test.images, train.names, (*train.problems, *test.problems)
    every = open_detection_dataset(root)
    held_out = _draw(every.images, max(1, round(TEST_SHARE * len(every))), seed)
    train_images = [image for image in every.images if image not in held_out]
    return train_images, held_out, every.names, every.problems


def _draw(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """Keep at most ``limit`` items, drawn with a seed, in their order; None keeps all."""
    return [items[index] for index in draw_sample(len(items), limit, seed).tolist()]
