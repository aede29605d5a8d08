"""Settings of detection: their words are those of the rooms that do the work."""

import pytest

from sppnet.config.detection import (
    LAYERS,
    PROJECTIONS,
    PROPOSAL_METHODS,
    PROPOSAL_SUFFIXES,
    DetectionConfig,
    InferenceConfig,
    check_proposals,
)
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
