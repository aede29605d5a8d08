"""Settings of classification: sizes, recipes and costs as they are typed."""

import subprocess
import sys

import pytest

from sppnet.classification import TrainerConfig
from sppnet.classification.train.config import InputSizes
from sppnet.classification.transfer.recipe import recipes_of
from sppnet.config.classification import COSTS, OPTIMIZERS, FitConfig, TrainConfig, parse_sizes
from sppnet.training.optimizers import KINDS


def test_optimizers_are_those_that_can_be_built() -> None:
    assert OPTIMIZERS == KINDS


@pytest.mark.parametrize("text", ["", "large", "0", "180,0", "-5", "10000", "natural:x", "1-2-3"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    for refused in (parse_sizes, InputSizes.parse, lambda each: TrainConfig(imgsz=each)):
        with pytest.raises(ValueError, match=r"^imgsz must be"):
            refused(text)


@pytest.mark.parametrize("text", ["224", "180,224", "180-224", "natural", "natural:96,128"])
def test_sizes_of_the_settings_are_those_of_the_training(text: str) -> None:
    sizes = TrainerConfig.of(TrainConfig(imgsz=text)).sizes
    assert sizes == InputSizes.parse(text)
    assert str(sizes) == ("natural:224" if text == "natural" else text)


def test_defaults_of_the_training_are_those_of_the_settings() -> None:
    ready = TrainerConfig.of(TrainConfig(weights="none"))
    assert ready == TrainerConfig()


@pytest.mark.parametrize("wrong", ["x", "", "1e999", "nan", "-1", 0, 0.0, float("nan")])
def test_costs_that_are_none_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"^c must be"):
        FitConfig(c=wrong)
    assert FitConfig().costs == COSTS
    assert FitConfig(c="3").costs == FitConfig(c=3.0).costs == (3.0,)


def test_a_block_for_every_size_and_layer() -> None:
    (recipe,) = recipes_of(FitConfig(imgsz="32, 48", layer="relu4,last", loss="squares"))
    found = [(block.short_side, block.layer) for block in recipe.blocks]
    assert found == [(32, "relu4"), (32, None), (48, "relu4"), (48, None)]
    assert recipe.loss == "squares"


def test_settings_need_no_torch() -> None:
    code = (
        "import sys, sppnet.config.classification, sppnet.config.detection; "
        "print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
