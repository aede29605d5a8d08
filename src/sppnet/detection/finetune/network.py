"""Fine-tuning through the pooling: the convolutions learn together with the head.

The paper tunes the fully connected layers only, because each proposal of its batches comes from
another image. Proposals that share an image share its convolutions, forward and backward; then the
gradient goes through the pooling to as many layers as wanted.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from sppnet.backbones import Backbone
from sppnet.detection.assign import SamplingConfig, trainable_objects
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.finetune.head import ImageSample, Proposals, ProposalSampler, split_images
from sppnet.detection.heads.region_head import COMPACT_WIDTHS, BoxHead, BoxPredictor, RegionHead
from sppnet.errors import NothingUsableError
from sppnet.images import LabelledImage, resize_short_side
from sppnet.pooling import pool_regions
from sppnet.progress import Track, no_tracking
from sppnet.training.checkpoints import Checkpoints, TrainingLog, TrainingState, derive_seed
from sppnet.training.distributed import Processes
from sppnet.training.optimizers import OptimizerConfig, build_optimizer, count_drops
from sppnet.training.trainer import ALONE, BatchResult, Row, Trainer


class RegionNetwork(nn.Module):
    """Everything that fine-tuning changes, from pixels to logits and boxes.

    Args:
        encoder: Gives the trunk, the levels and the projection.
        head: fc6, fc7 and the logits.
        mixed_precision: Convolve in bfloat16, which some processors do several times as fast.

    Source:
        Fast R-CNN (Girshick 2015), section 2, with the pyramid of SPP-net.
    """

    def __init__(
        self, encoder: Encoder, head: RegionHead, *, mixed_precision: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mixed_precision = mixed_precision
        self.backbone = encoder.backbone
        self.head = head
        self.boxes = BoxPredictor(head.widths[1], head.num_classes)

    def pool(self, samples: Sequence[ImageSample]) -> Tensor:
        """Convolve images and pool their proposals, with gradients into the trunk: (P, D)."""
        encoded = [self._encode(sample) for sample in samples]
        rows = []
        for index, (sample, image) in enumerate(zip(samples, encoded, strict=True)):
            only_scale = torch.zeros(len(sample.boxes), dtype=torch.int64)
            regions = self.encoder.assign_regions(image, sample.boxes, only_scale)
            rows.append(torch.cat([torch.full_like(regions[:, :1], index), regions[:, 1:]], dim=1))
        maps = [image.maps[0] for image in encoded]
        return pool_regions(maps, torch.cat(rows), self.encoder.levels)

    def losses(self, samples: Sequence[ImageSample], box_weight: float = 1.0) -> Tensor:
        """Loss of a batch, and how many proposals of it are classified right.

        Args:
            samples: Images with their proposals.
            box_weight: What the loss of the boxes counts.

        Returns:
            (2,) the loss, which has the gradient, and the part of the proposals that are right.
        """
        pooled = self.pool(samples)
        labels = torch.cat([sample.labels for sample in samples]).to(pooled.device)
        deltas = torch.cat([sample.deltas for sample in samples]).to(pooled.device)
        fc7 = self.head.dropout(self.head.describe(pooled))
        logits = self.head.logits(fc7)
        loss = cross_entropy(logits, labels) + box_weight * self.boxes.loss(fc7, labels, deltas)
        right = (logits.detach().argmax(1) == labels).to(loss).mean()
        return torch.stack([loss, right])

    def _encode(self, sample: ImageSample) -> EncodedImage:
        """Convolve an image at the size that was drawn for it."""
        limit = self.encoder.max_long_side
        resized, (zoom_y, zoom_x) = resize_short_side(sample.image, sample.short_side, limit)
        device = self.encoder.device
        batch = resized[None].to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed_precision):
            features = self.backbone(batch).float()
        size_hw = (sample.image.shape[1], sample.image.shape[2])
        return EncodedImage((features,), ((zoom_x, zoom_y),), size_hw)


def choose_trained(backbone: Backbone, layer: str | None) -> list[str]:
    """Let a trunk learn from a layer on; what comes before it, and BatchNorm, stays as it is.

    Args:
        backbone: Its parameters are told whether they need gradients.
        layer: First layer that learns, named as for ``build_backbone``; the empty name is the
            whole trunk, None nothing of it.

    Returns:
        Names of the parameters that learn.

    Raises:
        ValueError: If the trunk has no such layer.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> choose_trained(build_backbone("small5"), "conv5")
        ['trunk.conv5.weight']
    """
    nodes = backbone.trunk.graph.nodes
    targets = [str(node.target) for node in nodes if node.op in ("call_module", "get_attr")]
    first = len(targets) if layer is None else _first_inside(targets, layer)
    learning = set(targets[first:])
    trained = []
    for name, parameter in backbone.named_parameters():
        path = name.removeprefix("trunk.")
        module, _, _ = path.rpartition(".")
        is_frozen = isinstance(backbone.trunk.get_submodule(module), nn.BatchNorm2d)
        parameter.requires_grad_(not is_frozen and not learning.isdisjoint(_parts(path)))
        if parameter.requires_grad:
            trained.append(name)
    return trained


def _parts(path: str) -> list[str]:
    """List the modules that a parameter lies in, and the parameter: a transformer block is one."""
    names = path.split(".")
    return [".".join(names[:end]) for end in range(1, len(names) + 1)]


def _first_inside(targets: Sequence[str], layer: str) -> int:
    """Place of the first module that is a layer or lies inside it."""
    for place, target in enumerate(targets):
        if not layer or target == layer or target.startswith(layer + "."):
            return place
    raise ValueError(f"trainable_from must be a layer with weights, got {layer!r}: {targets}")


# Images from which the length of the vectors and the spread of the deltas are estimated.
MEASURED_IMAGES = 16


@dataclass(frozen=True)
class NetworkTuningConfig:
    """Everything that decides what the tuning does, besides the data.

    Args:
        updates: Steps of the optimizer; 40,000 in Fast R-CNN, for 5,000 images.
        check_every: Updates between two measurements of the validation loss.
        sampling: Proposals of an update, and what they are.
        images_per_update: Images that share these proposals.
        short_sides: One of them is drawn for each image; the encoder's if None.
        flip: Whether half of the images are mirrored.
        use_difficult: Whether objects marked difficult are positives.
        trainable_from: First layer of the trunk that learns; empty for all, None for none.
        widths: Outputs of fc6 and fc7.
        ranks: Their ranks; 0 for full matrices.
        dropout: Part of the outputs of fc7 that training drops.
        optimizer: Rate of the head, whose weights are new, and constants; biases do not decay and
            have twice the rate.
        trunk_rate: The trunk's rate over the head's.
        drop_at: Parts of the updates after which the rate falls to a tenth.
        clip_norm: Longest gradient of an update.
        box_weight: What the loss of the boxes counts beside that of the classes.
        validation_fraction: Part of the images that choose the best weights and teach nothing.
        mixed_precision: Convolve in bfloat16 while learning.
        seed: Of everything that is random.

    Raises:
        ValueError: If a number is out of range.

    Source:
        Fast R-CNN (Girshick 2015), sections 2.3 and 4.5; the schedule in miniature.
    """

    updates: int = 300
    check_every: int = 50
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    images_per_update: int = 2
    short_sides: tuple[int, ...] | None = None
    flip: bool = True
    use_difficult: bool = False
    trainable_from: str | None = ""
    widths: tuple[int, int] = COMPACT_WIDTHS
    ranks: tuple[int, int] = (0, 0)
    dropout: float = 0.5
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(rate=0.01))
    trunk_rate: float = 0.1
    drop_at: tuple[float, ...] = (0.75,)
    clip_norm: float = 10.0
    box_weight: float = 1.0
    validation_fraction: float = 0.1
    mixed_precision: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "check_every", "images_per_update"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("trunk_rate", "box_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not all(0 <= part <= 1 for part in self.drop_at):
            raise ValueError(f"drop_at must lie in 0..1, got {self.drop_at}")
        if not 0 <= self.validation_fraction < 1:
            rule = "validation_fraction must lie in 0..1, 1 left out"
            raise ValueError(f"{rule}, got {self.validation_fraction}")

    def rate_at(self, update: int) -> float:
        """Learning rate of the head in an update, 0 for the first.

        Example:
            >>> rates = OptimizerConfig(rate=1.0)
            >>> config = NetworkTuningConfig(updates=4, optimizer=rates, drop_at=(0.5,))
            >>> [config.rate_at(update) for update in range(4)]
            [1.0, 1.0, 0.1, 0.1]
        """
        return self.optimizer.rate * 0.1 ** count_drops(update, self.updates, self.drop_at)


@dataclass(frozen=True)
class TunedNetwork:
    """What fine-tuning leaves.

    Args:
        encoder: The encoder that was given, with the tuned trunk; the trunk has the same
            configuration as before, so it is saved and restored in the same way.
        head: fc6, fc7 and the logits of the classes and the background.
        boxes: Moves boxes, in place of a :class:`RidgeBoxRegressor`.
        history: One dict(epoch, rate, loss, accuracy, validation_loss, seconds) for each
            measurement on the validation images.
    """

    encoder: Encoder
    head: RegionHead
    boxes: BoxHead
    history: list[dict[str, Any]]


def tune_network(
    images: Sequence[LabelledImage],
    encoder: Encoder,
    num_classes: int,
    config: NetworkTuningConfig,
    proposals: Proposals,
    *,
    checkpoints: Checkpoints | None = None,
    log: TrainingLog | None = None,
    track: Track = no_tracking,
    processes: Processes = ALONE,
) -> TunedNetwork:
    """Teach a trunk and a new head together, from the proposals of labelled images.

    Every update draws from the seed and its number only, so a run that was stopped goes on to the
    same bits. The weights with the least loss on the validation images are kept; these are a part
    of the images given here and are not learnt from.

    Args:
        images: What to learn from; all of them can be decoded.
        encoder: Gives the trunk, which is copied, the levels and the projection.
        num_classes: K.
        config: The constants.
        proposals: Gives the (P, 4) proposals of an image, xyxy in pixels.
        checkpoints: Where the state is kept and taken up again; None keeps none.
        log: Where losses are written.
        track: Shows the progress over the updates.
        processes: Who takes part, with the same arguments. Each shows its share of the images of an
            update; only the first uses ``checkpoints`` and ``log``.

    Returns:
        The tuned parts, in evaluation mode; the same in every process.

    Raises:
        ValueError: If the trunk has no layer of the name.
        NothingUsableError: If no image has an object.
        UnusableFileError: If the newest training state is of another network.
        UsageError: If the loss is not finite, or another process ended.

    Source:
        Fast R-CNN (Girshick 2015), section 2.3.
    """
    if not any(bool(trainable_objects(each, config.use_difficult).any()) for each in images):
        raise NothingUsableError("no image has an object to learn from")
    learnt, held_back = split_images(images, config.validation_fraction, config.seed)
    network = build_region_network(encoder, num_classes, config)
    sampler = build_sampler(learnt, encoder, num_classes, config, proposals)
    trainer = Trainer(
        network,
        build_network_optimizer(network, config),
        NetworkTask(network, sampler, held_back, config, processes),
        clip_norm=config.clip_norm,
        keep_best=True,
        checkpoints=checkpoints,
        log=log,
        processes=processes,
    )
    if not trainer.is_resumed:
        if processes.is_first:
            standardise(network, sampler)
        processes.broadcast_weights(network)
    network.head.train()
    history = trainer.run("tuning", track)
    network.requires_grad_(False)
    boxes = BoxHead(network.head, network.boxes)
    return TunedNetwork(network.encoder, network.head, boxes, history)


def build_region_network(
    encoder: Encoder, num_classes: int, config: NetworkTuningConfig
) -> RegionNetwork:
    """Copy a trunk, put a new head behind it, and say which layers learn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "head"))
        head = RegionHead(encoder.length, num_classes, config.widths, config.ranks, config.dropout)
        tuned = copy.copy(encoder)
        tuned.backbone = copy.deepcopy(encoder.backbone).eval()
        network = RegionNetwork(tuned, head, mixed_precision=config.mixed_precision)
    network.to(encoder.device)
    choose_trained(network.backbone, config.trainable_from)
    return network


def build_network_optimizer(network: RegionNetwork, config: NetworkTuningConfig) -> Optimizer:
    """Let the trunk learn at another rate than the head."""
    new = [*network.head.parameters(), *network.boxes.parameters()]
    parts = [(network.backbone.parameters(), config.trunk_rate), (new, 1.0)]
    return build_optimizer(parts, config.optimizer, fast_biases=True)


def build_sampler(
    images: Sequence[LabelledImage],
    encoder: Encoder,
    num_classes: int,
    config: NetworkTuningConfig,
    proposals: Proposals,
) -> ProposalSampler:
    """Say what is drawn from the images that are learnt from."""
    return ProposalSampler(
        images,
        proposals,
        num_classes,
        config.sampling,
        config.images_per_update,
        config.short_sides or encoder.short_sides,
        config.flip,
        config.use_difficult,
        config.seed,
    )


@torch.no_grad()
def standardise(network: RegionNetwork, sampler: ProposalSampler) -> None:
    """Bring pooled vectors to a mean square of 1, and find the spread of the deltas."""
    chosen = sampler.images[:: -(-len(sampler.images) // MEASURED_IMAGES)]
    samples = [sampler.fixed_sample(image) for image in chosen]
    squares = [network.pool([sample]).square().mean() for sample in samples]
    network.head.scale.copy_(torch.stack(squares).mean().clamp(min=1e-12).rsqrt())
    positive = [each.deltas[each.labels < sampler.num_classes] for each in samples]
    network.boxes.standardise(torch.cat(positive))


class NetworkTask:
    """Batches of a few images with many proposals each.

    Args:
        network: What learns.
        sampler: Draws images and proposals to learn from.
        validation: Images that choose the best weights; may be none.
        config: The constants.
        processes: Who takes part.
    """

    def __init__(
        self,
        network: RegionNetwork,
        sampler: ProposalSampler,
        validation: Sequence[LabelledImage],
        config: NetworkTuningConfig,
        processes: Processes = ALONE,
    ) -> None:
        self.network, self.sampler, self.config = network, sampler, config
        self.validation, self.processes = validation, processes
        self.updates, self.per_epoch = config.updates, config.check_every

    def rate_at(self, step: int, history: Sequence[Row]) -> float:  # noqa: ARG002
        """Give the head's learning rate: it falls once."""
        return self.config.rate_at(step)

    def batches(self, first: int) -> Iterator[list[ImageSample]]:
        """Draw this process's images and proposals of each update."""
        for step in range(first, self.updates):
            yield self.sampler.draw(step, self.processes)

    def add_gradients(self, batch: list[ImageSample], step: int) -> BatchResult | None:
        """Show a batch, if any process has proposals of it; dropout draws other numbers each time.

        The loss of a process counts as many proposals as it has among those of all, so that the sum
        of the gradients is that of one process with the whole batch, however uneven the shares are.
        """
        own, rank = sum(len(sample.labels) for sample in batch), self.processes.rank
        count = torch.tensor([float(own)], device=self.network.encoder.device)
        self.processes.all_reduce([count])
        if not count:
            return None
        seeds = [step, rank] if rank else [step]  # the first draws what one alone does
        torch.manual_seed(derive_seed(self.config.seed, "dropout", *seeds))
        totals = torch.zeros(2, device=count.device)
        if batch:
            found = self.network.losses(batch, self.config.box_weight) * (own / float(count))
            found[0].backward()
            totals = found.detach()
        if self.processes.count > 1:
            trained = [each for each in self.network.parameters() if each.requires_grad]
            for each in trained:
                each.grad = torch.zeros_like(each) if each.grad is None else each.grad
            self.processes.all_reduce([*(p.grad for p in trained if p.grad is not None), totals])
        loss, right = totals.tolist()
        return BatchResult(loss, right)

    def measure(self, state: TrainingState, rate: float) -> Row:
        """Make the row of an epoch."""
        count = max(1, state.counted)
        return {
            "epoch": state.epochs_done,
            "rate": rate,
            "loss": state.loss_sum / count,
            "accuracy": state.right / count,
            "validation_loss": self.validation_loss(),
            "seconds": state.seconds,
        }

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean loss over the validation images; 0, so that the last weights are kept, if none."""
        self.network.head.eval()
        count, device = len(self.validation), self.network.encoder.device
        losses = torch.zeros(2, count, dtype=torch.float64, device=device)
        for place in self.processes.shard(torch.arange(count)).tolist():
            sample = self.sampler.fixed_sample(self.validation[place])
            if len(sample.labels):
                found = self.network.losses([sample], self.config.box_weight)[0]
                losses[:, place] = torch.tensor([float(found), 1.0])
        self.processes.all_reduce([losses])  # of each image one process knows it
        self.network.head.train()
        known = losses[0][losses[1] > 0].tolist()
        return mean(known) if known else 0.0
