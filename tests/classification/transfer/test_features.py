"""Features are worked out once per content, weights and settings; bad images are left out.

Rows of a recipe are those of its parts, worked out one by one."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from small_photos import draw_folders, spoil
from sppnet.backbones import Backbone, build_backbone, restore_backbone
from sppnet.classification import SppNet, View, build_classifier, build_pool, extract_features
from sppnet.classification.transfer.features import FeatureEncoder
from sppnet.classification.transfer.recipe import Block, FeatureRecipe
from sppnet.classification.transfer.svm import gram_matrix
from sppnet.images import list_images
from sppnet.storage import FeatureCache

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("small5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return draw_folders(tmp_path / "data", 2)


def _paths(folder: Path) -> list[Path]:
    return list(list_images([folder]).paths)


def test_rows_are_those_of_the_parts(backbone: Backbone, folder: Path) -> None:
    from sppnet.images import load_image

    paths = _paths(folder)
    pool, view = build_pool("spp", (1, 2)), View("full", 48)
    found = extract_features(paths, backbone, pool, view)
    assert found.rows.shape == (8, 96 * 5)
    for path, row in zip(paths, found.rows, strict=True):
        with torch.inference_mode():
            expected = pool(backbone(view.apply(load_image(path))[None]))[0]
        assert torch.allclose(row, expected, atol=1e-5)


def test_company_and_order_change_no_bit(backbone: Backbone, folder: Path) -> None:
    paths, pool, view = _paths(folder), build_pool("spp"), View("full", 40)
    together = extract_features(paths, backbone, pool, view).rows
    backwards = extract_features(paths[::-1], backbone, pool, view).rows
    assert torch.equal(together, backwards.flip(0))
    assert torch.equal(together[3:4], extract_features(paths[3:4], backbone, pool, view).rows)


def test_second_run_takes_all_from_the_cache(
    backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    paths, pool, view = _paths(folder), build_pool("spp"), View("full", 40)
    first = extract_features(
        paths[:3], backbone, pool, view, cache=FeatureCache(tmp_path / "cache")
    )
    cache = FeatureCache(tmp_path / "cache")  # as after a kill
    again = extract_features(paths, backbone, pool, view, cache=cache)
    assert (cache.hits, cache.misses) == (3, 5)
    assert torch.equal(again.rows[:3], first.rows)
    assert torch.equal(again.rows, extract_features(paths, backbone, pool, view).rows)


def test_any_change_misses_the_cache(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    path, cache = _paths(folder)[:1], FeatureCache(tmp_path / "cache")
    pool, view = build_pool("spp"), View("full", 40)
    extract_features(path, backbone, pool, view, cache=cache)
    other = build_backbone("small5")
    other.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-3
    for changed in [
        (other, pool, view),
        (build_backbone("small5", layer="relu4"), pool, view),
        (backbone, build_pool("max"), view),
        (backbone, pool, View("warp", 40)),
        (backbone, pool, View("full", 41)),
    ]:
        extract_features(path, *changed, cache=cache)
    path[0].write_bytes(_paths(folder)[1].read_bytes())
    extract_features(path, backbone, pool, view, cache=cache)
    assert (cache.hits, cache.misses) == (0, 7)


def test_damaged_record_is_computed_again(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    paths, pool, view = _paths(folder), build_pool("spp"), View("full", 40)
    clean = extract_features(paths, backbone, pool, view, cache=FeatureCache(tmp_path / "c"))
    record = next((tmp_path / "c").rglob("*.record"))
    content = bytearray(record.read_bytes())
    content[-5] ^= 1
    record.write_bytes(content)
    cache = FeatureCache(tmp_path / "c")
    again = extract_features(paths, backbone, pool, view, cache=cache)
    assert cache.damaged == 1
    assert torch.equal(again.rows, clean.rows)


def test_bad_images_are_left_out_once_each(backbone: Backbone, folder: Path) -> None:
    pool, view = build_pool("spp"), View("full", 40)
    clean = extract_features(_paths(folder), backbone, pool, view).rows
    bad = spoil(folder)
    paths = [*_paths(folder), folder / "missing.png"]
    found = extract_features(paths, backbone, pool, view)
    assert torch.equal(found.rows, clean)
    assert {p.path for p in found.problems} == {*map(str, bad), str(folder / "missing.png")}
    assert len(found.problems) == 4
    assert {p.code for p in found.problems} == {
        "E_TRUNCATED",
        "E_FORMAT",
        "E_EMPTY",
        "E_UNREADABLE",
    }
    assert len(found.kept) + len(found.problems) == len(paths)


def test_no_images_at_all(backbone: Backbone) -> None:
    assert len(extract_features([], backbone, build_pool("spp"), View()).kept) == 0


MANY = FeatureRecipe(
    (
        Block(levels=(1, 2), short_side=48),
        Block("relu3", "avg", short_side=48, norm="power", weight=2.0),
        Block("relu4", "spp+avg", levels=(1, 3), view="warp", short_side=40),
        Block("relu4", "max", view="warp", short_side=40, flip=True, norm="none"),
    )
)


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.rand(3, height, width) for height, width in ((60, 90), (60, 90), (50, 40))]


def cut_at(backbone: Backbone, layer: str | None) -> Backbone:
    """The same weights, cut at an earlier layer."""
    earlier = build_backbone("small5", layer=layer)
    known = earlier.state_dict()
    tensors = {k: v for k, v in backbone.state_dict().items() if k in known}
    return restore_backbone(earlier.config(), tensors)


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


def test_encoded_rows_are_those_of_the_parts(
    backbone: Backbone, images: list[torch.Tensor]
) -> None:
    rows = FeatureEncoder(backbone, MANY).encode(images)
    for image, row in zip(images, rows, strict=True):
        expected = torch.cat([slow_block(backbone, block, image) for block in MANY.blocks])
        assert torch.allclose(row, expected, atol=1e-5)


def test_kernels_add_up(backbone: Backbone, images: list[torch.Tensor]) -> None:
    whole = gram_matrix(FeatureEncoder(backbone, MANY).encode(images))
    parts = [FeatureEncoder(backbone, FeatureRecipe((block,))) for block in MANY.blocks]
    assert torch.allclose(whole, sum(gram_matrix(part.encode(images)) for part in parts), rtol=1e-5)


def test_company_and_order_change_no_bit_of_encoded_rows(
    backbone: Backbone, images: list[torch.Tensor]
) -> None:
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
