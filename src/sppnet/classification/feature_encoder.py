"""Turns images into the rows of a recipe: each view convolved once, all its layers pooled."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sppnet.backbones import Backbone
from sppnet.classification.feature_recipe import FIRST_HIDDEN, Block, FeatureRecipe
from sppnet.classification.features import (
    FEATURE_VERSION,
    FeatureSet,
    RowMaker,
    batch_rows,
    device_of,
    make_rows,
)
from sppnet.classification.network import FixedNorm, SppNet, apply_in_blocks, build_pool
from sppnet.classification.views import View
from sppnet.images import flip_left_right, group_equal_sizes
from sppnet.progress import Track, no_tracking
from sppnet.storage import FeatureCache
from sppnet.storage.tensors import digest_of

Place = tuple[View, bool]
Pooling = Callable[[Tensor], Tensor]


class FeatureEncoder(nn.Module):
    """A frozen trunk, or a trained network, and the recipe of what is taken from it.

    Args:
        backbone: The trunk.
        recipe: What is pooled.
        pool: The trained network's own pooling, for blocks of fully connected layers.
        head: Its head: fully connected layers with ReLU between them, likewise.

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

    @torch.inference_mode()
    def encode(self, images: Sequence[Tensor]) -> Tensor:
        """Turn decoded images into rows.

        On the CPU each image is convolved by itself, so that its row has the same bits in any
        company.

        Args:
            images: n tensors (3, H, W), RGB 0..1, of any sizes; at least one.

        Returns:
            (n, D) float32 on the CPU: the blocks side by side, each scaled by its norm and the
            square root of its weight; the whole row is not yet scaled to ``recipe.row_length``.
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
        maker = RowMaker(
            View("native"),
            self.encode,
            batch_rows(self.backbone),
            {
                "what": "rows of a recipe",
                "version": FEATURE_VERSION,
                "encoder": self.digest(),
                "device": device_of(self.backbone).type,
            },
        )
        return make_rows(paths, maker, cache=cache, track=track, words="computing features")

    def digest(self) -> str:
        """SHA-256 of the blocks and of every number of the network: what rows depend on."""
        about = {
            "blocks": self.recipe.description()["blocks"],
            "pool": repr(self.source_pool),
            "head": repr(self.source_head),
            "trunk": self.backbone.description(),
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
            self.backbone.tap(image, list(dict.fromkeys(self._map_names)))


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
