"""Recipes of features: their rules, their files, and what they cannot be."""

from pathlib import Path

import pytest

from sppnet.backbones import build_backbone
from sppnet.classification.transfer.features import FeatureEncoder
from sppnet.classification.transfer.recipe import RECIPES, Block, FeatureRecipe, load_recipe
from sppnet.errors import UsageError

TWO = FeatureRecipe((Block(), Block("relu2", "avg", view="warp", short_side=320)), "squares")


@pytest.mark.parametrize("recipe", [*RECIPES.values(), TWO], ids=[*RECIPES, "two"])
def test_plain_values_bring_a_recipe_back(recipe: FeatureRecipe) -> None:
    assert FeatureRecipe.from_config(recipe.config()) == recipe


@pytest.mark.parametrize(
    ("block", "plain"),
    [
        (Block(), True),
        (Block("relu2", "avg", view="crop", short_side=64), True),
        (Block(weight=2.0), True),  # whole rows are scaled to length 1
        (Block("fc6"), False),
        (Block(flip=True), False),
        (Block(norm="power"), False),
        (Block(norm="none"), False),
    ],
)
def test_one_pooled_map_is_plain(block: Block, plain: bool) -> None:
    assert FeatureRecipe((block,)).is_plain is plain
    assert not FeatureRecipe((block, Block())).is_plain


def test_scales_keep_their_proportion() -> None:
    assert [b.short_side for b in TWO.at_short_side(112).blocks] == [112, 160]
    assert TWO.at_short_side(224) == TWO


@pytest.mark.parametrize(
    "wrong",
    [
        {"pool": "median"},
        {"view": "tilted"},
        {"norm": "l1"},
        {"levels": ()},
        {"levels": (0,)},
        {"short_side": 0},
        {"weight": 0.0},
        {"weight": float("nan")},
    ],
    ids=str,
)
def test_impossible_blocks_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Block(**wrong)


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FeatureRecipe(())
    with pytest.raises(ValueError, match="loss must be one of hinge, squares"):
        FeatureRecipe(loss="absolute")


def test_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        'loss = "squares"\n[[blocks]]\n[[blocks]]\nlayer = "relu2"\npool = "avg"\n'
        'view = "warp"\nshort_side = 320\n'
    )
    assert load_recipe(str(file)) == TWO


BAD_FILES = {
    "loss = 3": "blocks",
    "not toml": "not a recipe",
    "blocks = []": "at least one",
    "[[blocks]]\ncolour = 1": "got 'colour'",
    "colour = 1\n[[blocks]]": "got 'colour'",
    '[[blocks]]\nlevels = "many"': "not a recipe",
    "[[blocks]]\nshort_side = -1": "short_side",
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_bad_files_are_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=BAD_FILES[text]) as caught:
        load_recipe(str(file))
    assert caught.value.path == str(file)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "squeezenet1_1", "small5"])
def test_the_best_recipe_fits_every_trunk(name: str) -> None:
    recipe = load_recipe("best", name)
    layers = {block.layer for block in recipe.blocks}
    assert layers == ({None, "features.10"} if name == "squeezenet1_1" else {None})
    assert recipe.loss == "squares"
    encoder = FeatureEncoder(build_backbone(name), recipe.at_short_side(32))
    assert encoder.num_features > 0


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="must be paper, best or a TOML file, got 'worst'"):
        load_recipe("worst")
