"""Rows of numbers for image files, worked out once and kept on disk: pooled features, or scores."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sppnet.backbones import Backbone
from sppnet.classification.views import View
from sppnet.errors import InputError, Problem
from sppnet.images import group_equal_sizes
from sppnet.images.content import content_number, decode_content, read_content
from sppnet.progress import Track, no_tracking
from sppnet.storage import FeatureCache
from sppnet.storage.tensors import digest_of

FEATURE_VERSION = 1  # raise it when the same image, weights and settings would give other numbers
ACCELERATOR_BATCH = 32


@dataclass(frozen=True)
class FeatureSet:
    """One row for each image that could be read.

    Args:
        rows: (N, D) float32 on the CPU; pooled features are not yet scaled to one length.
        kept: (N,) int64, the position of each row's image in the list that was asked for.
        digests: (N,) int64, the first 8 bytes of each file's SHA-256.
        problems: One finding for each image that was left out.
    """

    rows: Tensor
    kept: Tensor
    digests: Tensor
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class RowMaker:
    """How images become rows.

    Args:
        view: What of an image is seen.
        compute: Turns a list of (3, h, w) views into (n, D) rows, each depending on its own image
            only.
        batch: How many images ``compute`` gets at once.
        depends_on: Everything besides the image's bytes that the rows depend on, for the cache's
            key.
    """

    view: View
    compute: Callable[[list[Tensor]], Tensor]
    batch: int
    depends_on: Mapping[str, str | int]


def extract_features(
    paths: Sequence[str | Path],
    backbone: Backbone,
    pool: nn.Module,
    view: View,
    *,
    cache: FeatureCache | None = None,
    track: Track = no_tracking,
) -> FeatureSet:
    """Convolve and pool images, or take the result from the cache.

    On the CPU images go through the trunk one by one: there a batch gains little, and only so are
    the features of an image the same bits whatever else is asked for and wherever an earlier run
    stopped. An accelerator gets batches of equal size.

    Args:
        paths: Image files of any sizes.
        backbone: Frozen trunk; put it in evaluation mode and on its device first.
        pool: From (N, C, h, w) to (N, D).
        view: What of the image the trunk sees.
        cache: Where features are kept under the file's content, the weights and the settings; None
            keeps nothing.
        track: Shows the progress over the images.

    Returns:
        The features, and a finding for each image that cannot be used.
    """
    maker = RowMaker(
        view,
        lambda images: pool_images(backbone, pool, images),
        batch_rows(backbone),
        {
            "what": "pooled features",
            "version": FEATURE_VERSION,
            "weights": backbone_digest(backbone),
            "pool": repr(pool),
            "device": device_of(backbone).type,
        },
    )
    return make_rows(paths, maker, cache=cache, track=track, words="computing features")


def make_rows(
    paths: Sequence[str | Path],
    maker: RowMaker,
    *,
    cache: FeatureCache | None = None,
    track: Track = no_tracking,
    words: str = "computing",
) -> FeatureSet:
    """Work out a row for every file, or take it from the cache.

    Args:
        paths: Image files of any sizes.
        maker: How images become rows.
        cache: Where rows are kept; a run that was killed goes on from there.
        track: Shows the progress over the images.
        words: What is done, for the progress.

    Returns:
        The rows, and a finding for each image that cannot be used.
    """
    rows: dict[int, Tensor] = {}
    digests: dict[int, int] = {}
    problems: list[Problem] = []
    pending: list[tuple[int, str, Tensor]] = []
    for index, path in enumerate(track(paths, words, total=len(paths))):
        try:
            data = read_content(path)
            key = row_key(maker, data)
            record = None if cache is None else cache.get(key)
            if record is None:
                pending.append((index, key, maker.view.apply(decode_content(data, path))))
            else:
                rows[index] = record["row"]
            digests[index] = content_number(data)
        except InputError as error:
            problems.append(Problem.of(error, action="left out"))
        if len(pending) >= maker.batch:
            rows.update(_compute(maker, pending, cache))
            pending = []
    rows.update(_compute(maker, pending, cache))
    return _gather(rows, digests, problems)


def row_key(maker: RowMaker, data: bytes) -> str:
    """Key of an image's row: the image's bytes and all that the row depends on besides."""
    view = json.dumps(maker.view.description(), sort_keys=True)
    image = hashlib.sha256(data).hexdigest()
    return FeatureCache.make_key(image=image, view=view, **maker.depends_on)


def _compute(
    maker: RowMaker, pending: list[tuple[int, str, Tensor]], cache: FeatureCache | None
) -> dict[int, Tensor]:
    """Work the rows of some images out and keep them."""
    if not pending:
        return {}
    rows = maker.compute([image for _, _, image in pending])
    for (_, key, _), row in zip(pending, rows, strict=True):
        if cache is not None:
            cache.put(key, {"row": row.clone()})
    return {index: row for (index, _, _), row in zip(pending, rows, strict=True)}


def pool_images(backbone: nn.Module, pool: nn.Module, images: Sequence[Tensor]) -> Tensor:
    """Convolve and pool images of any sizes: alone on the CPU, in batches of equal size elsewhere.

    Args:
        backbone: Trunk in evaluation mode.
        pool: From (N, C, h, w) to (N, D).
        images: N tensors (3, H, W), RGB 0..1; at least one.

    Returns:
        (N, D) float32 on the CPU; on the CPU a row depends on its own image only, bit for bit.
    """
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    rows: dict[int, Tensor] = {}
    for part in group_equal_sizes(sizes, batch_rows(backbone)):
        pooled = _pool_batch(backbone, pool, torch.stack([images[index] for index in part]))
        rows.update(zip(part, pooled, strict=True))
    return torch.stack([rows[index] for index in range(len(images))])


@torch.inference_mode()
def _pool_batch(backbone: nn.Module, pool: nn.Module, batch: Tensor) -> Tensor:
    """Convolve images of one size; channels-last halves the time of most trunks on a CPU."""
    batch = batch.to(device_of(backbone)).contiguous(memory_format=torch.channels_last)
    pooled: Tensor = pool(backbone(batch))  # (n, D)
    return pooled.float().cpu()


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters of a module are; the CPU if it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def batch_rows(module: nn.Module) -> int:
    """How many images of one size go through a trunk at once: 1 on the CPU."""
    return 1 if device_of(module).type == "cpu" else ACCELERATOR_BATCH


def backbone_digest(backbone: Backbone) -> str:
    """SHA-256 of a trunk's description and of every number in it."""
    return digest_of(backbone.description(), backbone.state_dict())


def _gather(
    rows: dict[int, Tensor], digests: dict[int, int], problems: list[Problem]
) -> FeatureSet:
    """Put rows in the order of the images."""
    kept = sorted(rows)
    return FeatureSet(
        rows=torch.stack([rows[index] for index in kept]) if kept else torch.empty(0, 0),
        kept=torch.tensor(kept, dtype=torch.int64),
        digests=torch.tensor([digests[index] for index in kept], dtype=torch.int64),
        problems=tuple(problems),
    )
