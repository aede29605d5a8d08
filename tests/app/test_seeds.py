"""One seed in every command: the flag's, else the settings file's, else 0."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from small_photos import draw_folders
from sppnet.app import settings as app_settings
from sppnet.app.demo.steps import DemoConfig
from sppnet.app.main import COMMANDS, load_command, main
from sppnet.backbones import build_backbone
from sppnet.classification import FitConfig, TrainConfig, TrainerConfig
from sppnet.detection import DetectionConfig
from sppnet.detection.heads import svm_trainer as window_training
from sppnet.detection.heads.hard_negatives import HardNegativeMiner
from sppnet.detection.heads.kernel_svm import mine_kernel
from sppnet.images import draw_detection_set
from sppnet.paper.detection_setup import DetectionNetwork

MOST = 2**32 - 1
WAYS = [([], None, 0), (["--seed", "5"], None, 5), ([], 7, 7), (["--seed", "5"], 7, 5)]
DETECTOR = """
weights = "none"
imgsz = [96]
max_proposals = 20
max_anchors = 10
max_box_samples = 5
classifier = "kernel"
"""
SMALL = ["--backbone", "small5"]


def _commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Words and object of every command."""
    for name in COMMANDS:
        command: Any = load_command(name)
        yield (name,), command
        yield from (((name, part), each) for part, each in getattr(command, "commands", {}).items())


def _takes(command: click.Command, name: str) -> bool:
    return name in {parameter.name for parameter in command.params}


CONFIGURED = {words: each for words, each in _commands() if _takes(each, "config")}


def _run_words(words: tuple[str, ...], folder: Path) -> tuple[list[str], str, type]:
    """Quick words of a command, what its settings file holds beside the seed, and its settings."""
    if words == ("detect", "train"):
        scenes = draw_detection_set(folder / "scenes", 4, seed=0)
        return [str(scenes), *SMALL, "--proposals", "grid"], DETECTOR, DetectionConfig
    photos = str(draw_folders(folder / "photos", 5))
    if words == ("classify", "fit"):
        return [photos, *SMALL, "--imgsz", "32"], 'weights = "none"\n', FitConfig
    assert words == ("classify", "train"), f"no quick words for {' '.join(words)}"
    quick = ["--imgsz", "32", "--epochs", "1"]
    return [photos, *SMALL, *quick], 'weights = "none"\n', TrainConfig


def _seeds(value: Any, place: str) -> dict[str, int]:
    """Every seed in a JSON value, by its place."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {}
    found = {}
    for key, item in value.items():
        if key == "seed":
            found[f"{place}.{key}"] = item
        found |= _seeds(item, f"{place}.{key}")
    return found


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("flag", "of_file", "wanted"), WAYS, ids=["default", "flag", "file", "both"]
)
@pytest.mark.parametrize("words", CONFIGURED, ids=" ".join)
def test_one_seed_wherever_it_is_given_and_wherever_it_is_read(
    words: tuple[str, ...],
    flag: list[str],
    of_file: int | None,
    wanted: int,
    tmp_path: Path,
    monkeypatch,
) -> None:
    quick, text, kind = _run_words(words, tmp_path)
    config, out = tmp_path / "settings.toml", tmp_path / "run"
    config.write_text(text + ("" if of_file is None else f"seed = {of_file}\n"))
    drawn: list[int] = []
    rules: list[Any] = []
    seed_torch, init = torch.manual_seed, HardNegativeMiner.__init__

    def watch_torch(seed: int) -> torch.Generator:
        drawn.append(seed)
        return seed_torch(seed)

    def watch_miner(self: HardNegativeMiner, positives: Any, rule: Any, *others: Any) -> None:
        rules.append(rule)
        init(self, positives, rule, *others)

    def watch_kernel(positives: Any, images: Any, rule: Any = None, features: Any = None) -> Any:
        rules.append(rule)
        return mine_kernel(positives, images, rule, features)

    monkeypatch.setattr(torch, "manual_seed", watch_torch)
    monkeypatch.setattr(HardNegativeMiner, "__init__", watch_miner)
    monkeypatch.setattr(window_training, "mine_kernel", watch_kernel)
    command = [*words, *quick, "--config", str(config), *flag, "--out", str(out)]
    assert main(command) == 0
    files = [out / "run.json", out / "metrics.json", out / "model" / "config.json"]
    found = {
        place: seed
        for path in files
        for place, seed in _seeds(json.loads(path.read_text()), path.name).items()
    }
    assert found["run.json.seed"] == wanted
    assert any(place.startswith("config.json") for place in found)
    assert {place: seed for place, seed in found.items() if seed != wanted} == {}
    assert drawn[0] == wanted
    assert {rule.seed for rule in rules} == ({wanted} if kind is DetectionConfig else set())


@pytest.mark.parametrize("words", CONFIGURED, ids=" ".join)
def test_every_flag_that_is_a_setting_comes_before_the_file(
    words: tuple[str, ...], tmp_path: Path, monkeypatch
) -> None:
    quick, _, kind = _run_words(words, tmp_path)
    asked: list[Any] = []

    def watch(*arguments: Any) -> None:
        asked.extend(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(app_settings, "load_settings", watch)
    main([*words, *quick, "--out", str(tmp_path / "run")])
    assert asked[0] is kind
    fields = {field.name for field in dataclasses.fields(kind)}
    flags = {parameter.name: parameter for parameter in CONFIGURED[words].params}
    assert "seed" in fields
    assert set(asked[2]) == fields & set(flags)
    typed = {word.removeprefix("--").replace("-", "_") for word in quick if word[:2] == "--"}
    assert {name for name, value in asked[2].items() if value is not None} == typed


def test_help_of_every_command_tells_the_seed_that_is_taken_without_the_flag() -> None:
    for words, command in _commands():
        option: Any
        for option in (each for each in command.params if each.name == "seed"):
            if words in {("detect", "val"), ("detect", "predict"), ("serve",)}:
                assert option.default is None, words  # that of the training
                continue
            assert option.default == 0, words
            assert option.show_default is True, words


@pytest.mark.parametrize("kind", [FitConfig, TrainConfig, DetectionConfig])
def test_impossible_seeds_of_a_file_are_refused(kind: type) -> None:
    for seed in (-1, MOST + 1):
        with pytest.raises(ValueError, match=f"seed must be .*got {seed}"):
            kind(seed=seed)
    assert kind(seed=MOST).seed == MOST


def test_settings_of_the_demo_hold_its_seed() -> None:
    config = DemoConfig()
    assert TrainerConfig.of(config.train_config(3)).seed == 3
    assert config.detection_config("none", 3).seed == config.split_config(3).seed == 3


def test_new_heads_of_the_tables_follow_the_seed() -> None:
    network = DetectionNetwork(build_backbone("small5"), (1,), None)
    first, same, other = (network.build_head(8, 2, (4, 4), seed).first for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
