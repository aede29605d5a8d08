"""Fine-tuning of the fully connected layers on pooled proposals; the convolutions stay as they are.

Since the maps never change, proposals are pooled once; an update is a few products of matrices.
An update is shown many proposals of few images, so that they share the convolutions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sppnet.detection.assign import (
    SamplingConfig,
    Views,
    label_proposals,
    sample_proposals,
    target_boxes,
    trainable_objects,
)
from sppnet.detection.encoder import Encoder
from sppnet.detection.feature_set import CachedFeatures, each_view
from sppnet.detection.heads.region_head import COMPACT_WIDTHS, RegionHead
from sppnet.errors import NothingUsableError
from sppnet.geometry import boxes_to_deltas
from sppnet.images import LabelledImage
from sppnet.progress import Track, no_tracking
from sppnet.training.checkpoints import Checkpoints, TrainingState, derive_seed
from sppnet.training.distributed import Processes
from sppnet.training.optimizers import OptimizerConfig, build_optimizer, count_drops
from sppnet.training.trainer import ALONE, BatchResult, Row, Trainer

Proposals = Callable[[LabelledImage], Tensor]
# Of the pooled vectors, which are kept in float16.
BYTES_PER_NUMBER = 2
LEAST_PER_IMAGE = 4
VALIDATION_BATCH = 512


@dataclass(frozen=True)
class ImageSample:
    """Proposals of one image that teach the network in one update.

    Args:
        image: (3, H, W) RGB 0..1, or bytes, mirrored where that was drawn.
        short_side: Length that its short side gets.
        boxes: (P, 4) proposals, xyxy in pixels of ``image``.
        labels: (P,) class, or K for the background.
        deltas: (P, 4) from the proposals to their objects; zeros for the background.
    """

    image: Tensor
    short_side: int
    boxes: Tensor
    labels: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class ProposalSampler:
    """Draws images, and proposals of them, by the number of the update alone.

    Nothing is remembered between updates: a training that goes on after a stop draws the same.

    Args:
        images: What to draw from, one or more.
        proposals: Gives the (P, 4) proposals of an image, xyxy in pixels.
        num_classes: K.
        sampling: Proposals of an update, how many are positive, and overlaps.
        images_per_update: Images that share these proposals.
        short_sides: One of these is drawn for each image.
        flip: Whether half of the images are mirrored.
        use_difficult: Whether objects marked difficult are positives.
        seed: Of everything that is drawn.

    Source:
        Fast R-CNN (Girshick 2015), section 2.3: 2 images, 64 proposals of each, a quarter of them
        positive, mirrored with probability 0.5.
    """

    images: Sequence[LabelledImage]
    proposals: Proposals
    num_classes: int
    sampling: SamplingConfig
    images_per_update: int = 2
    short_sides: tuple[int, ...] = (600,)
    flip: bool = True
    use_difficult: bool = False
    seed: int = 0

    def draw(self, update: int, processes: Processes = ALONE) -> list[ImageSample]:
        """Draw the samples of an update, 0 for the first; images take turns in a random order.

        An image without a proposal to learn from is left out. Of several processes each draws its
        share of the images; together they draw what one would.
        """
        places = update * self.images_per_update + torch.arange(self.images_per_update)
        samples = [self._draw_image(place) for place in processes.shard(places).tolist()]
        return [sample for sample in samples if len(sample.labels)]

    def fixed_sample(self, image: LabelledImage) -> ImageSample:
        """Draw the same proposals of an image each time, not mirrored, at the first size."""
        draw = torch.Generator().manual_seed(derive_seed(self.seed, "look", str(image.image_id)))
        return self._sample(image, draw, self.short_sides[0])

    def _draw_image(self, place: int) -> ImageSample:
        """Draw an image's proposals; ``place`` counts the images shown so far."""
        turn, index = divmod(place, len(self.images))
        shuffle = torch.Generator().manual_seed(derive_seed(self.seed, "order", turn))
        order = torch.randperm(len(self.images), generator=shuffle)
        draw = torch.Generator().manual_seed(derive_seed(self.seed, "windows", place))
        side = int(torch.randint(len(self.short_sides), (), generator=draw))
        is_mirrored = self.flip and bool(torch.rand((), generator=draw) < 0.5)
        chosen = self.images[int(order[index])]
        seen = chosen.mirror() if is_mirrored else chosen
        return self._sample(seen, draw, self.short_sides[side])

    def _sample(self, image: LabelledImage, draw: torch.Generator, short_side: int) -> ImageSample:
        """Choose proposals of an image and say what each of them shows."""
        objects = image.boxes[trainable_objects(image, self.use_difficult)]
        boxes = torch.cat([objects, self.proposals(image)])
        labels = label_proposals(boxes, image, self.num_classes, self.sampling, self.use_difficult)
        count = max(1, self.sampling.batch // self.images_per_update)
        rows = sample_proposals(labels, self.num_classes, count, self.sampling, draw)
        boxes, labels = boxes[rows], labels[rows]
        targets = target_boxes(boxes, image, labels, self.use_difficult)
        deltas = boxes_to_deltas(boxes, targets)
        return ImageSample(image.load(compact=True), short_side, boxes, labels, deltas)


def split_images(
    images: Sequence[LabelledImage], fraction: float, seed: int
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Draw images for validation; the others are learnt from, and there is always one of them.

    Returns:
        Images to learn from, and images for validation; none of the latter if the fraction is 0.
    """
    count = min(round(fraction * len(images)), len(images) - 1)
    draw = torch.Generator().manual_seed(derive_seed(seed, "validation"))
    validation = set(torch.randperm(len(images), generator=draw)[:count].tolist())
    parts = [
        [image for i, image in enumerate(images) if (i in validation) == b] for b in (False, True)
    ]
    return parts[0], parts[1]


@dataclass(frozen=True)
class HeadTuningConfig:
    """The 2014 schedule in miniature.

    Args:
        updates: Steps of the optimizer; 200,000 in the 2014 code.
        check_every: Updates between two measurements of the validation loss.
        sampling: Proposals of an update, and what they are.
        per_image: Proposals that an image gives to the pool.
        flip: Whether mirrored images teach, too.
        use_difficult: Whether objects marked difficult are positives.
        widths: Outputs of fc6 and fc7.
        ranks: Their ranks; 0 for full matrices.
        dropout: Part of the outputs of fc6 and fc7 that training drops.
        optimizer: Rate at first, and constants; biases do not decay and have twice the rate.
        drop_at: Parts of the updates after which the rate falls to a tenth.
        clip_norm: Longest gradient of an update.
        validation_fraction: Part of the images that choose the best weights and teach nothing.
        budget_bytes: Memory for the pooled proposals.
        seed: Of everything that is random.

    Raises:
        ValueError: If a number is out of range.

    Source:
        pascal_finetune_fc_spm_solver.prototxt and spp_finetune_voc.m of the authors' code.
    """

    updates: int = 400
    check_every: int = 50
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    per_image: int = 64
    flip: bool = False
    use_difficult: bool = False
    widths: tuple[int, int] = COMPACT_WIDTHS
    ranks: tuple[int, int] = (0, 0)
    dropout: float = 0.5
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(rate=0.01))
    drop_at: tuple[float, ...] = (0.5, 0.85)
    clip_norm: float = 10.0
    validation_fraction: float = 0.1
    budget_bytes: int = 1_000_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "check_every", "per_image"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.validation_fraction < 1:
            rule = "validation_fraction must lie in 0..1, 1 left out"
            raise ValueError(f"{rule}, got {self.validation_fraction}")

    def rate_at(self, update: int) -> float:
        """Learning rate of an update, 0 for the first.

        Example:
            >>> config = HeadTuningConfig(updates=20, optimizer=OptimizerConfig(rate=1.0))
            >>> [config.rate_at(update) for update in (0, 10, 17)]
            [1.0, 0.1, 0.01]
        """
        return self.optimizer.rate / 10 ** count_drops(update, self.updates, self.drop_at)

    def fit_budget(self, images: int, length: int) -> tuple[int, int]:
        """Say how many images give proposals, and how many each, so that memory is enough.

        Args:
            images: How many there are.
            length: Numbers per pooled vector.

        Example:
            >>> config = HeadTuningConfig(budget_bytes=64_000)
            >>> config.fit_budget(10, 100), config.fit_budget(1000, 100)
            ((10, 32), (80, 4))
        """
        most = max(LEAST_PER_IMAGE, self.budget_bytes // (BYTES_PER_NUMBER * length))
        per_image = max(LEAST_PER_IMAGE, min(self.per_image, most // max(1, images)))
        return min(images, most // per_image), per_image


@dataclass(frozen=True)
class ProposalPool:
    """Pooled proposals that batches are drawn from.

    Args:
        rows: (N, D) float16 pooled vectors.
        labels: (N,) class, or K for the background.
    """

    rows: Tensor
    labels: Tensor

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors in float32 and labels of some proposals."""
        return self.rows[places].float(), self.labels[places]


@dataclass(frozen=True)
class TunedHead:
    """What the tuning leaves.

    Args:
        head: In evaluation mode, with the weights of the least validation loss.
        history: One dict(epoch, loss, validation_loss) for each measurement.
    """

    head: RegionHead
    history: list[dict[str, Any]]


def tune_head(
    cached: CachedFeatures,
    num_classes: int,
    config: HeadTuningConfig,
    *,
    start: RegionHead | None = None,
    checkpoints: Checkpoints | None = None,
    track: Track = no_tracking,
) -> TunedHead:
    """Teach a head the proposals of images whose maps are cached.

    Some of the images only choose which weights are kept. Every update draws from the seed and its
    number, so a run that was stopped goes on to the same bits.

    Args:
        cached: Images whose maps and proposals are in the cache.
        num_classes: K.
        config: The constants.
        start: Where to begin, of the configured sizes; None begins with a new head.
        checkpoints: Where the state is kept and taken up again; None keeps none.
        track: Shows the progress.

    Returns:
        The head and its history.

    Raises:
        NothingUsableError: If there is no proposal that shows an object.
        UnusableFileError: If the newest training state is of another head.
        UsageError: If the loss is not finite.

    Source:
        SPP-net, section 4.1.
    """
    learnt, held_back = split_images(cached.usable, config.validation_fraction, config.seed)
    pool = gather_proposals(cached, learnt, num_classes, config, track=track)
    still = replace(config, flip=False)
    validation = gather_proposals(
        cached, held_back, num_classes, still, random_scale=False, track=track
    )
    head = build_head(pool, num_classes, config)
    if start is not None:
        head.load_state_dict(start.state_dict())
    return tune_on_proposals(head, pool, validation, config, checkpoints=checkpoints, track=track)


def tune_on_proposals(
    head: RegionHead,
    pool: ProposalPool,
    validation: ProposalPool,
    config: HeadTuningConfig,
    *,
    checkpoints: Checkpoints | None = None,
    track: Track = no_tracking,
) -> TunedHead:
    """Teach a head pooled proposals; arguments and errors as for :func:`tune_head`.

    Args:
        head: What learns, in place.
        pool: What is learnt from.
        validation: Proposals of other images, which choose the weights; may be empty.
        config: The constants.
        checkpoints: Where the state is kept.
        track: Shows the progress.
    """
    if not bool((pool.labels < head.num_classes).any()):
        raise NothingUsableError("no proposal shows an object to learn from")
    trainer = Trainer(
        head,
        build_optimizer([(head.parameters(), 1.0)], config.optimizer, fast_biases=True),
        HeadTask(head, pool, validation, config),
        clip_norm=config.clip_norm,
        keep_best=True,
        checkpoints=checkpoints,
    )
    head.train()
    history = trainer.run("tuning the head", track)
    return TunedHead(head.requires_grad_(False), history)


class HeadTask:
    """Batches of pooled proposals; arguments as for :func:`tune_on_proposals`."""

    def __init__(
        self,
        head: RegionHead,
        pool: ProposalPool,
        validation: ProposalPool,
        config: HeadTuningConfig,
    ) -> None:
        self.head, self.pool, self.validation, self.config = head, pool, validation, config
        self.updates, self.per_epoch = config.updates, config.check_every

    def rate_at(self, step: int, history: Sequence[Row]) -> float:  # noqa: ARG002
        """Give the learning rate: it falls in steps."""
        return self.config.rate_at(step)

    def batches(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw vectors and labels of each update."""
        sampling, labels = self.config.sampling, self.pool.labels
        for step in range(first, self.updates):
            draw = torch.Generator().manual_seed(derive_seed(self.config.seed, "batch", step))
            yield self.pool.batch(
                sample_proposals(labels, self.head.num_classes, sampling.batch, sampling, draw)
            )

    def add_gradients(self, batch: tuple[Tensor, Tensor], step: int) -> BatchResult:
        """Show a batch; dropout draws other numbers in every update."""
        torch.manual_seed(derive_seed(self.config.seed, "dropout", step))
        rows, labels = batch
        loss = cross_entropy(self.head(rows), labels)
        loss.backward()
        return BatchResult(float(loss.detach()))

    def measure(self, state: TrainingState, rate: float) -> Row:  # noqa: ARG002
        """Make the row of an epoch."""
        return {
            "epoch": state.epochs_done,
            "loss": state.loss_sum / state.counted,
            "validation_loss": validation_loss(self.head, self.validation),
        }


def build_head(pool: ProposalPool, num_classes: int, config: HeadTuningConfig) -> RegionHead:
    """Make a new head; pooled vectors come in with a mean square of 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "head"))
        length = pool.rows.shape[1]
        head = RegionHead(length, num_classes, config.widths, config.ranks, config.dropout)
    some = pool.rows[:: max(1, len(pool.rows) // 500)].float()
    head.scale.copy_(some.square().mean().clamp(min=1e-12).rsqrt())
    return head


@torch.no_grad()
def validation_loss(head: RegionHead, validation: ProposalPool) -> float:
    """Mean loss without dropout; 0, so that the last weights are kept, without proposals."""
    was_training = head.training
    head.eval()
    total = 0.0
    for places in torch.arange(len(validation.labels)).split(VALIDATION_BATCH):
        rows, labels = validation.batch(places)
        total += float(cross_entropy(head(rows), labels, reduction="sum"))
    head.train(was_training)
    return total / max(1, len(validation.labels))


def gather_proposals(
    cached: CachedFeatures,
    images: Sequence[LabelledImage],
    num_classes: int,
    config: HeadTuningConfig,
    *,
    random_scale: bool = True,
    track: Track = no_tracking,
) -> ProposalPool:
    """Draw proposals of images and pool them from their cached maps.

    Every image draws from the seed and its own name only.

    Args:
        cached: Gives maps and proposals.
        images: Which images.
        num_classes: K.
        config: How many proposals, and what they are.
        random_scale: Draw the scale of each proposal, as in fine-tuning; otherwise the best one.
        track: Shows the progress.

    Returns:
        The proposals of all images, one image after the other.

    Source:
        SPP-net, section 4.1; spp_finetune_voc.m of the authors' code.
    """
    encoder = cached.encoder
    views = list(each_view(images, Views(mirror=config.flip)))
    count, per_image = config.fit_budget(len(views), encoder.length)
    draw = torch.Generator().manual_seed(derive_seed(config.seed, "images"))
    order = torch.randperm(len(views), generator=draw)[:count].tolist()
    rows = [torch.zeros(0, encoder.length, dtype=torch.float16)]
    labels = [torch.zeros(0, dtype=torch.int64)]
    for place in track(order, "gathering proposals", total=count):
        image = views[place]
        encoded = cached.encoded(image)
        boxes, drawn = _draw_boxes(cached, image, (num_classes, per_image), config)
        scale_of = _draw_scales(boxes, encoder, image, config) if random_scale else None
        regions = encoder.assign_regions(encoded, boxes, scale_of)
        rows.append(encoder.pool(encoded, regions).half().cpu())
        labels.append(drawn)
    return ProposalPool(torch.cat(rows), torch.cat(labels))


def _draw_boxes(
    cached: CachedFeatures,
    image: LabelledImage,
    sizes: tuple[int, int],
    config: HeadTuningConfig,
) -> tuple[Tensor, Tensor]:
    """Proposals of an image and what they show; ``sizes`` are K and how many proposals."""
    num_classes, count = sizes
    objects = image.boxes[trainable_objects(image, config.use_difficult)]
    boxes = torch.cat([objects, cached.propose(image)])
    labels = label_proposals(boxes, image, num_classes, config.sampling, config.use_difficult)
    draw = torch.Generator().manual_seed(derive_seed(config.seed, "windows", str(image.path)))
    chosen = sample_proposals(labels, num_classes, count, config.sampling, draw)
    return boxes[chosen], labels[chosen]


def _draw_scales(
    boxes: Tensor, encoder: Encoder, image: LabelledImage, config: HeadTuningConfig
) -> Tensor:
    """One of the encoder's scales for each proposal, all equally likely."""
    draw = torch.Generator().manual_seed(derive_seed(config.seed, "scales", str(image.path)))
    return torch.randint(len(encoder.short_sides), (len(boxes),), generator=draw)
