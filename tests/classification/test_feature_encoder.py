"""Rows of a recipe are those of its parts, worked out one by one."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from small_photos import draw_folders
from sppnet.backbones import Backbone, build_backbone, restore_backbone
from sppnet.classification import SppNet, View, build_classifier, build_pool, extract_features
from sppnet.classification.feature_encoder import FeatureEncoder
from sppnet.classification.feature_recipe import Block, FeatureRecipe
from sppnet.classification.linear_svm import gram_matrix
from sppnet.images import list_images
from sppnet.storage import FeatureCache

pytestmark = pytest.mark.usefixtures("one_thread")

MANY = FeatureRecipe(
    (
        Block(levels=(1, 2), short_side=48),
        Block("relu3", "avg", short_side=48, norm="power", weight=2.0),
        Block("relu4", "spp+avg", levels=(1, 3), view="warp", short_side=40),
        Block("relu4", "max", view="warp", short_side=40, flip=True, norm="none"),
    )
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("small5")


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.rand(3, height, width) for height, width in ((60, 90), (60, 90), (50, 40))]


def cut_at(backbone: Backbone, layer: str | None) -> Backbone:
    """The same weights, cut at an earlier layer."""
    earlier = build_backbone("small5", layer=layer)
    known = earlier.state_dict()
    tensors = {k: v for k, v in backbone.state_dict().items() if k in known}
    return restore_backbone(earlier.description(), tensors)


@torch.inference_mode()
def slow_block(backbone: Backbone, block: Block, image: torch.Tensor) -> torch.Tensor:
    """One block of one image, from a trunk of its own."""
    trunk, pool = cut_at(backbone, block.layer), build_pool(block.pool, block.levels)
    view = View(block.view, block.short_side).apply(image)
    row = pool(trunk(view[None]))[0]
    if block.flip:
        row = (row + pool(trunk(view.flip(-1)[None]))[0]) / 2
    if block.norm == "power":
        row = row.sign() * row.abs().sqrt()
    if block.norm != "none":
        row = F.normalize(row, dim=0)
    return row * block.weight**0.5


def test_rows_are_those_of_the_parts(backbone: Backbone, images: list[torch.Tensor]) -> None:
    rows = FeatureEncoder(backbone, MANY).encode(images)
    for image, row in zip(images, rows, strict=True):
        expected = torch.cat([slow_block(backbone, block, image) for block in MANY.blocks])
        assert torch.allclose(row, expected, atol=1e-5)


def test_kernels_add_up(backbone: Backbone, images: list[torch.Tensor]) -> None:
    whole = gram_matrix(FeatureEncoder(backbone, MANY).encode(images))
    parts = [FeatureEncoder(backbone, FeatureRecipe((block,))) for block in MANY.blocks]
    assert torch.allclose(whole, sum(gram_matrix(part.encode(images)) for part in parts), rtol=1e-5)


def test_company_and_order_change_no_bit(backbone: Backbone, images: list[torch.Tensor]) -> None:
    encoder = FeatureEncoder(backbone, MANY)
    together = encoder.encode(images)
    assert torch.equal(together.flip(0), encoder.encode(images[::-1]))
    for index, image in enumerate(images):
        assert torch.equal(together[index : index + 1], encoder.encode([image]))


def test_plain_recipe_gives_the_rows_of_a_network(backbone: Backbone, tmp_path: Path) -> None:
    paths = list_images([draw_folders(tmp_path / "d", 1)]).paths
    rows = FeatureEncoder(backbone, FeatureRecipe((Block(short_side=40),))).extract(paths).rows
    pooled = extract_features(paths, backbone, build_pool("spp"), View("full", 40)).rows
    assert torch.allclose(rows, F.normalize(pooled), atol=1e-6)


@pytest.fixture(scope="module")
def network() -> SppNet:
    torch.manual_seed(2)
    return build_classifier("small5", 3, levels=(1, 2), hidden=(20, 10), dropout=0.5).eval()


def test_hidden_layers_are_those_of_the_network(
    network: SppNet, images: list[torch.Tensor]
) -> None:
    seen: dict[int, torch.Tensor] = {}
    recipe = FeatureRecipe(
        tuple(Block(layer, view="warp", short_side=48, norm="none") for layer in ("fc6", "fc7"))
    )
    rows = FeatureEncoder.of_network(network, recipe).encode(images)
    relus = [layer for layer in network.head if isinstance(layer, torch.nn.ReLU)]
    hooks = [
        relu.register_forward_hook(lambda *found, n=n: seen.update({n: found[2]}))
        for n, relu in enumerate(relus)
    ]
    with torch.inference_mode():
        network(torch.stack([View("warp", 48).apply(image) for image in images]))
    for hook in hooks:
        hook.remove()
    assert torch.allclose(rows, torch.cat([seen[0], seen[1]], dim=1), atol=1e-5)


def test_layers_that_are_not_there_are_named(backbone: Backbone, network: SppNet) -> None:
    with pytest.raises(ValueError, match="no fully connected layer"):
        FeatureEncoder(backbone, FeatureRecipe((Block("fc6"),)))
    with pytest.raises(ValueError, match="one of fc6, fc7, got 'fc8'"):
        FeatureEncoder.of_network(network, FeatureRecipe((Block("fc8"),)))
    with pytest.raises(ValueError, match="relu99"):
        FeatureEncoder(backbone, FeatureRecipe((Block("relu99"),)))


def test_cache_is_asked_by_blocks_and_weights(backbone: Backbone, tmp_path: Path) -> None:
    paths = list_images([draw_folders(tmp_path / "d", 1)]).paths
    cache = FeatureCache(tmp_path / "cache")
    first = FeatureEncoder(backbone, MANY).extract(paths, cache=cache)
    assert (cache.hits, cache.misses) == (0, 4)
    squares = FeatureRecipe(MANY.blocks, "squares")  # the machines are no part of the rows
    again = FeatureEncoder(backbone, squares).extract(paths, cache=cache)
    assert (cache.hits, cache.misses) == (4, 4)
    assert torch.equal(again.rows, first.rows)
    FeatureEncoder(backbone, MANY.at_short_side(47)).extract(paths, cache=cache)
    assert (cache.hits, cache.misses) == (4, 8)
