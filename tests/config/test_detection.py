"""Settings of detection: their words are those of the rooms that do the work; recipes."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from sppnet.app.settings import load_settings
from sppnet.config.detection import (
    LAYERS,
    PROJECTIONS,
    PROPOSAL_METHODS,
    PROPOSAL_SUFFIXES,
    DetectionConfig,
    InferenceConfig,
    check_proposals,
)
from sppnet.config.recipes import PAPER_TESTING, PAPER_TRAINING
from sppnet.detection import PROPOSERS
from sppnet.detection.proposals.precomputed import PROPOSAL_READERS
from sppnet.geometry.projection import PROJECTION_PRESETS


def test_words_are_those_that_the_rooms_know() -> None:
    assert set(PROPOSAL_METHODS) == set(PROPOSERS)
    assert set(PROPOSAL_SUFFIXES) == set(PROPOSAL_READERS)
    assert set(PROJECTIONS) == set(PROJECTION_PRESETS)


@pytest.mark.parametrize("kind", [DetectionConfig, InferenceConfig])
@pytest.mark.parametrize("text", ["", "edges", "graph+graph", "graph+", "boxes.txt"])
def test_proposals_are_methods_or_a_file(kind: type, text: str) -> None:
    with pytest.raises(ValueError, match=r"proposals must be one of \['edge_boxes', "):
        kind(proposals=text)
    check_proposals("grid+graph")
    assert kind(proposals="runs/boxes.MAT").proposals == "runs/boxes.MAT"


def test_negatives_lie_below_positives() -> None:
    DetectionConfig(negative_below=0.75)
    with pytest.raises(ValueError, match=r"negative_below must be at most positive_from, 0.2, got"):
        DetectionConfig(positive_from=0.2)


@pytest.mark.parametrize("layer", LAYERS[1:])
def test_features_of_a_head_need_one(layer: str) -> None:
    assert DetectionConfig(features=layer, tune="head").layer_of_features == layer
    assert DetectionConfig(tune="head").layer_of_features == "fc7"
    with pytest.raises(ValueError, match="need tune to be head or network"):
        DetectionConfig(features=layer)


def test_two_layers_of_efficientnet_lite_are_joined_unless_something_else_is_asked_for() -> None:
    assert DetectionConfig().layer_of_trunk == "stage5+stage7"
    assert DetectionConfig(layer="stage4").layer_of_trunk == "stage4"
    assert DetectionConfig(recipe="paper").layer_of_trunk is None
    assert DetectionConfig(backbone="squeezenet1_1").layer_of_trunk is None


# What the paper does not say, or what is not for it to say.
LEFT_OPEN = {
    *("backbone", "layer", "weights", "engine", "recipe", "seed"),  # whose network it is
    *(
        "max_anchors",
        "positive_from",
        "enough_positives",
        "few_objects",
        "very_few_objects",
    ),  # of parts that are off
    *("tune_from", "tune_images", "tune_trunk_rate", "tune_box_weight"),  # with tune = network
    *("svm_tolerance", "svm_memory", "max_box_samples", "box_total", "tune_per_image"),  # memory
    *("tune_clip_norm", "tune_validation"),  # the paper's validation images are those of the test
    "operating_point",
    "soft_sigma",
}


@pytest.mark.parametrize(
    ("kind", "recipe"), [(DetectionConfig, PAPER_TRAINING), (InferenceConfig, PAPER_TESTING)]
)
def test_the_papers_recipe_decides_every_setting_that_the_paper_has(kind: type, recipe) -> None:
    names = {field.name for field in fields(kind) if field.name.split("_")[0] != "kernel"}
    names -= {name for name in names if name.startswith("anchor_")}
    assert set(recipe) == names - LEFT_OPEN
    config = kind(recipe="paper")
    assert {name: getattr(config, name) for name in recipe} == dict(recipe)


def test_the_papers_recipe_has_the_papers_constants() -> None:
    config, testing = DetectionConfig(recipe="paper"), InferenceConfig(recipe="paper")
    assert (config.extra_positives, config.box_stages, config.anchors) == (0, 1, False)
    assert (config.max_proposals, config.proposals) == (2000, "selective_search")
    assert (config.negative_overlap, config.box_strength) == (0.7, 4000)
    assert (testing.vote_overlap, testing.rescore, testing.refined) == (1, False, "kept")
    assert (testing.max_detections, testing.max_per) == (100, "class")
    assert DetectionConfig() == DetectionConfig(recipe="best") != config


def test_what_is_given_outranks_the_recipe(tmp_path: Path) -> None:
    config = DetectionConfig(recipe="paper", box_stages=3, tune="none")
    assert (config.box_stages, config.tune, config.extra_positives) == (3, "none", 0)
    assert replace(config, seed=4).box_stages == 3
    assert InferenceConfig("grid", recipe="paper").proposals == "grid"
    toml = tmp_path / "own.toml"
    toml.write_text('recipe = "paper"\nextra_positives = 2\nbox_stages = 2\n')
    loaded = load_settings(DetectionConfig, toml, {"box_stages": 5})
    assert (loaded.extra_positives, loaded.box_stages, loaded.max_proposals) == (2, 5, 2000)
    with pytest.raises(ValueError, match="recipe must be one of best, paper, got 'ours'"):
        DetectionConfig(recipe="ours")


def test_a_change_of_the_recipe_changes_what_it_decides() -> None:
    paper = InferenceConfig("grid", 7, 3).changed({"recipe": "paper", "max_proposals": 9})
    assert paper == InferenceConfig(recipe="paper", max_proposals=9, seed=3)
    assert paper.changed({"recipe": "best"}) == InferenceConfig(seed=3)
    assert paper.changed({"nms": "soft"}).rescore is False
