"""Frozen features of whole images, computed once and cached."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sppnet.backbones import Backbone
from sppnet.classification.network import (
    FixedNorm,
    SppNet,
    apply_in_blocks,
    batch_rows,
    bins_of,
    build_pool,
    device_of,
    pool_bins,
    pool_images,
)
from sppnet.classification.transfer.recipe import FIRST_HIDDEN, Block, FeatureRecipe
from sppnet.classification.views import View
from sppnet.errors import InputError, Problem
from sppnet.images import flip_left_right, group_equal_sizes
from sppnet.images.decode import content_number, decode_content, read_content
from sppnet.progress import Track, no_tracking, work_ahead
from sppnet.storage import FeatureCache
from sppnet.storage.tensors import digest_of

FEATURE_VERSION = 1  # raise it when the same image, weights and settings would give other numbers
PROBE_SIDE = 32  # pixels of an image that only tells how long a row is
Place = tuple[View, bool]
Pooling = Callable[[Tensor], Tensor]


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

    On the CPU images go through the trunk one by one: a batch gains little there, and alone an
    image's features have the same bits whatever else is asked for and wherever an earlier run
    stopped. An accelerator gets batches of images of one size.

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
    function = ImageFunction(
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
        backbone.workers,
    )
    return apply_to_files(paths, function, cache=cache, track=track, words="computing features")


def backbone_digest(backbone: Backbone) -> str:
    """SHA-256 of a trunk's description and of every number in it."""
    return digest_of(backbone.config(), backbone.state_dict())


class FeatureEncoder(nn.Module):
    """A frozen trunk or trained network, and the recipe that says what to take from it.

    Args:
        backbone: The trunk.
        recipe: What is pooled.
        pool: The trained network's own pooling; blocks of fully connected layers need it.
        head: Its head, fully connected layers with ReLU between them; they need it, too.

    Raises:
        ValueError: If the trunk has no such layer, or the head no such hidden layer.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> recipe = FeatureRecipe((Block(short_side=32), Block("relu2", "avg", short_side=32)))
        >>> encoder = FeatureEncoder(build_backbone("small5"), recipe)
        >>> encoder.encode([torch.rand(3, 40, 50)]).shape
        torch.Size([1, 4848])
    """

    def __init__(
        self,
        backbone: Backbone,
        recipe: FeatureRecipe,
        pool: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.recipe = recipe
        self.source_pool = pool
        self.source_head = head
        self._map_names = [b.layer if b.hidden_layer is None else None for b in recipe.blocks]
        self._poolings = [self._pooling_of(block) for block in recipe.blocks]
        self.eval()
        self._try_layers()

    @classmethod
    def of_network(cls, network: SppNet, recipe: FeatureRecipe) -> "FeatureEncoder":
        """Take features from a trained network, its fully connected layers included."""
        return cls(network.backbone, recipe, network.pool, network.head)  # type: ignore[arg-type]

    @property
    def num_features(self) -> int:
        """Numbers that an image gives, whatever its size."""
        return self.encode([torch.zeros(3, PROBE_SIDE, PROBE_SIDE)]).shape[1]

    @property
    def row_length(self) -> int:
        """The same number, worked out from the sizes of the parts; no level is ever pooled.

        Raises:
            ValueError: If the trained network's pooling and head do not fit each other.
        """
        return sum(map(self._length_of, self.recipe.blocks))

    def _length_of(self, block: Block) -> int:
        """Numbers that a block gives."""
        if block.hidden_layer is None:
            channels = self._channels[block.layer]
            return channels * pool_bins(block.pool, block.levels)
        layer = hidden_layers(self.source_head)[block.hidden_layer]
        pool = self.source_pool or nn.Identity()
        linear = [part for part in layer if isinstance(part, nn.Linear)]
        rows = self._channels[None] * bins_of(pool)
        if linear[0].in_features != rows:
            raise ValueError(f"source_head must take rows of {rows} numbers")
        return linear[-1].out_features

    @property
    def workers(self) -> int:
        """Images that are best encoded at a time; hidden layers depend on the threads, too."""
        return self.backbone.workers if self.source_head is None else 1

    @torch.inference_mode()
    def encode(self, images: Sequence[Tensor]) -> Tensor:
        """Turn decoded images into rows.

        On the CPU each image is convolved by itself, so that its row has the same bits in any
        company.

        Args:
            images: n tensors (3, H, W), RGB 0..1, of any sizes; at least one.

        Returns:
            (n, D) float32 on the CPU: the blocks side by side, each scaled by its norm and the
            square root of its weight; the whole row is not yet scaled to ``recipe.feature_norm``.
        """
        columns: list[Tensor] = [torch.empty(0)] * len(self.recipe.blocks)
        for place, numbers in self._places().items():
            for number, rows in zip(numbers, self._pool_place(place, numbers, images), strict=True):
                columns[number] = scale_rows(rows, self.recipe.blocks[number])
        return torch.cat(columns, dim=1)

    def extract(
        self,
        paths: Sequence[str | Path],
        *,
        cache: FeatureCache | None = None,
        track: Track = no_tracking,
    ) -> FeatureSet:
        """Encode image files, or take their rows from the cache.

        Args:
            paths: Image files of any sizes.
            cache: Where rows are kept under the file's content, the weights and the recipe; None
                keeps nothing.
            track: Shows the progress over the images.

        Returns:
            The rows, and a finding for each image that cannot be used.
        """
        function = ImageFunction(
            View("native"),
            self.encode,
            batch_rows(self.backbone),
            {
                "what": "rows of a recipe",
                "version": FEATURE_VERSION,
                "encoder": self.digest(),
                "device": device_of(self.backbone).type,
            },
            self.workers,
            resizes=True,
        )
        return apply_to_files(paths, function, cache=cache, track=track, words="computing features")

    def digest(self) -> str:
        """SHA-256 of everything that rows depend on: the blocks and every number of the network."""
        about = {
            "blocks": self.recipe.config()["blocks"],
            "pool": repr(self.source_pool),
            "head": repr(self.source_head),
            "trunk": self.backbone.config(),
        }
        return digest_of(about, self.state_dict())

    def _places(self) -> dict[Place, list[int]]:
        """Numbers of the blocks that see the same pixels."""
        places: dict[Place, list[int]] = {}
        for number, block in enumerate(self.recipe.blocks):
            places.setdefault((View(block.view, block.short_side), block.flip), []).append(number)
        return places

    def _pool_place(
        self, place: Place, numbers: list[int], images: Sequence[Tensor]
    ) -> list[Tensor]:
        """Pool all blocks of one view: for each block (n, d) on the CPU."""
        view, flip = place
        views = [view.apply(image) for image in images]
        sizes = [(image.shape[1], image.shape[2]) for image in views]
        rows: list[list[Tensor]] = [[torch.empty(0)] * len(images) for _ in numbers]
        for part in group_equal_sizes(sizes, batch_rows(self.backbone)):
            batch = torch.stack([views[index] for index in part])
            pooled = self._pool_batch(batch, numbers)
            if flip:
                mirrored = self._pool_batch(flip_left_right(batch), numbers)
                pooled = [(a + b) / 2 for a, b in zip(pooled, mirrored, strict=True)]
            for column, block_rows in zip(rows, pooled, strict=True):
                for index, row in zip(part, block_rows, strict=True):
                    column[index] = row
        return [torch.stack(column) for column in rows]

    def _pool_batch(self, batch: Tensor, numbers: list[int]) -> list[Tensor]:
        """Convolve images of one size once and pool the layers of some blocks."""
        layers = [self._map_names[number] for number in numbers]
        distinct = list(dict.fromkeys(layers))
        batch = batch.to(device_of(self)).contiguous(memory_format=torch.channels_last)
        maps = dict(zip(distinct, self.backbone.tap(batch, distinct), strict=True))
        pooled = zip(numbers, layers, strict=True)
        return [self._poolings[number](maps[layer]).float().cpu() for number, layer in pooled]

    def _pooling_of(self, block: Block) -> Pooling:
        """From the block's map (n, C, h, w) to its rows (n, d)."""
        if block.hidden_layer is None:
            return build_pool(block.pool, block.levels)
        layers = hidden_layers(self.source_head)
        if self.source_pool is None or block.hidden_layer >= len(layers):
            legal = ", ".join(f"fc{FIRST_HIDDEN + number}" for number in range(len(layers)))
            rule = f"one of {legal}" if legal else "a map: this trunk has no fully connected layer"
            raise ValueError(f"layer must be {rule}, got {block.layer!r}")
        layer = layers[block.hidden_layer]
        pool = self.source_pool
        return lambda features: apply_in_blocks(layer, pool(features))

    def _try_layers(self) -> None:
        """Say now which layer the trunk lacks, on the smallest image."""
        side = self.backbone.min_size
        image = torch.zeros(1, 3, side, side, device=device_of(self))
        with torch.inference_mode():
            names = list(dict.fromkeys(self._map_names))
            maps = self.backbone.tap(image, names)
        self._channels = {name: each.shape[1] for name, each in zip(names, maps, strict=True)}


def hidden_layers(head: nn.Module | None) -> list[nn.Sequential]:
    """From pooled rows to each hidden layer of a head, its ReLU included; empty if it has none.

    Example:
        >>> from sppnet.classification.network import build_head
        >>> [part(torch.rand(2, 9)).shape[1] for part in hidden_layers(build_head(9, 3, (5, 4)))]
        [5, 4]
    """
    if not isinstance(head, nn.Sequential):
        return []
    ends = [number + 1 for number, layer in enumerate(head) if isinstance(layer, nn.ReLU)]
    return [head[:end] for end in ends]


def scale_rows(rows: Tensor, block: Block) -> Tensor:
    """Scale pooled rows (n, d) as a block asks: norm, then the square root of its weight.

    Example:
        >>> scale_rows(torch.tensor([[9.0, -16.0]]), Block(norm="power", weight=4.0))
        tensor([[ 1.2000, -1.6000]])
    """
    if block.norm == "power":
        rows = rows.sign() * rows.abs().sqrt()
    if block.norm != "none":
        rows = FixedNorm()(rows)
    return rows * block.weight**0.5


def as_they_are(rows: Tensor) -> Tensor:
    """Rows as they were computed."""
    return rows


@dataclass(frozen=True)
class ImageFunction:
    """A function from images to rows of numbers whose results can be cached.

    Args:
        view: What of an image the function sees.
        compute: From a list of (3, h, w) views to (n, D) rows; each row depends on its own image
            only.
        batch: How many images ``compute`` gets at once.
        depends_on: Everything besides the image's bytes that a row depends on; it goes into the
            key of the cache.
        workers: Images that are best computed at a time, each by a thread; only for a batch of 1.
        finish: What is made of the computed rows, in the threads of the caller.
        resizes: Whether ``compute`` resizes: then it gets images as they were decoded, large ones
            in bytes.
    """

    view: View
    compute: Callable[[list[Tensor]], Tensor]
    batch: int
    depends_on: Mapping[str, str | int]
    workers: int = 1
    finish: Callable[[Tensor], Tensor] = as_they_are
    resizes: bool = False


def apply_to_files(
    paths: Sequence[str | Path],
    function: ImageFunction,
    *,
    cache: FeatureCache | None = None,
    track: Track = no_tracking,
    words: str = "computing",
) -> FeatureSet:
    """Compute a row for every image file, or take it from the cache.

    Args:
        paths: Image files of any sizes.
        function: Turns images into rows.
        cache: Where rows are kept; a run that was killed goes on from there.
        track: Shows the progress over the images.
        words: What the progress says is being done.

    Returns:
        The rows, and a finding for each image that cannot be used.
    """
    kept: list[FileRow] = []
    problems: list[Problem] = []
    for each in rows_of_files(paths, function, cache=cache, track=track, words=words):
        if isinstance(each, Problem):
            problems.append(each)
        else:
            kept.append(each)
    return FeatureSet(
        rows=torch.stack([each.row for each in kept]) if kept else torch.empty(0, 0),
        kept=torch.tensor([each.number for each in kept], dtype=torch.int64),
        digests=torch.tensor([each.digest for each in kept], dtype=torch.int64),
        problems=tuple(problems),
    )


class FileRow(NamedTuple):
    """The row of an image file.

    Args:
        number: The position of the file in the list that was asked for.
        key: Under which the cache keeps the row.
        digest: The first 8 bytes of the file's SHA-256.
        row: (D,) float32.
    """

    number: int
    key: str
    digest: int
    row: Tensor


class _Prepared(NamedTuple):
    """An image file that was read: its row if the cache has it, else its pixels.

    Where workers compute, (1, D) of what they computed is in the place of the pixels.
    """

    number: int
    key: str
    digest: int
    row: Tensor | None
    view: Tensor | None


def rows_of_files(
    paths: Sequence[str | Path],
    function: ImageFunction,
    *,
    cache: FeatureCache | None = None,
    track: Track = no_tracking,
    words: str = "computing",
) -> Iterator[FileRow | Problem]:
    """Do what :func:`apply_to_files` does, and keep nothing: each row as soon as it is there.

    While images are computed, another thread reads and decodes the next one; where the function
    asks for several workers, each of them computes, too.

    Args:
        paths: Image files of any sizes.
        function: Turns images into rows.
        cache: Where rows are kept.
        track: Shows the progress over the images.
        words: What the progress says is being done.

    Yields:
        In the order of the files: a row, or a finding about an image that cannot be used. A finding
        may come before the rows of images that wait for their batch.
    """

    def prepare(numbered: tuple[int, str | Path]) -> _Prepared:
        index, path = numbered
        data = read_content(path)
        key, digest = cache_key(function, data), content_number(data)
        record = None if cache is None else cache.get(key)
        if record is not None:
            return _Prepared(index, key, digest, record["row"], None)
        view = decode_content(data, path)
        view = view if function.resizes else function.view.apply(view)
        if function.workers > 1:
            view = function.compute([view])
        return _Prepared(index, key, digest, None, view)

    waiting: list[_Prepared] = []
    ahead = work_ahead(enumerate(paths), prepare, function.workers)
    for _, prepared in track(ahead, words, total=len(paths)):
        try:
            waiting.append(prepared.result())
        except InputError as error:
            yield Problem.of(error, action="left out")
            continue
        is_known = waiting[0].row is not None  # then nothing before it has to be computed
        if is_known or sum(each.view is not None for each in waiting) >= function.batch:
            yield from _compute(function, waiting, cache)
            waiting = []
    yield from _compute(function, waiting, cache)


def cache_key(function: ImageFunction, data: bytes) -> str:
    """Key of an image's row: the image's bytes and everything else that the row depends on."""
    view = json.dumps(function.view.config(), sort_keys=True)
    image = hashlib.sha256(data).hexdigest()
    return FeatureCache.make_key(image=image, view=view, **function.depends_on)


def _compute(
    function: ImageFunction, waiting: Sequence[_Prepared], cache: FeatureCache | None
) -> Iterator[FileRow]:
    """Compute the rows that are missing, and cache them."""
    views = [each.view for each in waiting if each.view is not None]
    computed: Iterator[Tensor] = iter(())
    if views:
        rows = torch.cat(views) if function.workers > 1 else function.compute(views)
        computed = iter(function.finish(rows))
    for each in waiting:
        row = each.row
        if row is None:
            row = next(computed).clone()  # not a part of all rows of the batch
            if cache is not None:
                cache.put(each.key, {"row": row})
        yield FileRow(each.number, each.key, each.digest, row)
