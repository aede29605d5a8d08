"""``sppnet classify fit`` with recipes, choices on training images, and VOC sets."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from small_photos import PATTERNS, draw_folders, draw_pattern
from sppnet.app.main import main
from sppnet.app.settings import load_settings
from sppnet.classification import Classifier, FitConfig
from sppnet.classification.classifier import ImageClassifier
from sppnet.classification.predict import load_classifier
from sppnet.classification.transfer.fit import TransferClassifier
from sppnet.classification.transfer.recipe import RECIPES, Block, recipes_of
from sppnet.config.classification import COSTS
from sppnet.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["--backbone", "small5", "--weights", "none"]
RECIPE = """
loss = "squares"
[[blocks]]
levels = [1, 2]
short_side = 48
[[blocks]]
layer = "relu3"
view = "warp"
short_side = 40
norm = "power"
"""


def _json(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folders(tmp_path_factory.mktemp("photos") / "data", 10)


def test_recipe_gives_a_classifier_that_predicts(data: Path, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(RECIPE)
    words = ["--recipe", str(tmp_path / "own.toml"), "--out", str(tmp_path / "run")]
    assert main(["classify", "fit", str(data), *SMALL, *words]) == 0
    model = tmp_path / "run" / "model"
    classifier = load_classifier(model)
    assert isinstance(classifier, TransferClassifier)
    metrics = _json(tmp_path / "run" / "metrics.json")
    assert metrics["feature_length"] == 96 * 5 + 64 * 50
    assert {entry["c"] for entry in metrics["chosen"][0]["validation"]} == set(COSTS)
    assert metrics["images"] == {"listed": 40, "failed": 0, "train": 32, "test": 8}
    out = str(tmp_path / "val")
    assert main(["classify", "val", str(model), str(data), "--skip-seen", "--out", out]) == 0
    assert _json(tmp_path / "val" / "metrics.json")["top1"] == metrics["top1"]


def test_a_fresh_machine_learns_on_trained_features(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No flag, no TORCH_HOME and no network: the weights were installed by pip."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it used the network"))
    few = tmp_path / "data"
    for folder in data.iterdir():
        (few / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:3]:
            (few / folder.name / path.name).symlink_to(path)
    assert main(["classify", "fit", str(few), "--out", str(tmp_path / "run")]) == 0
    config = _json(tmp_path / "run" / "model" / "config.json")
    assert config["backbone"]["name"] == "efficientnet_lite0"
    assert _json(tmp_path / "run" / "metrics.json")["feature_length"] == 320 * 50


@pytest.mark.parametrize(
    ("words", "kind", "length"),
    [
        (["--imgsz", "32", "--layer", "relu4"], Classifier, 96 * 50),
        (["--imgsz", "32,48", "--levels", "1,2"], TransferClassifier, 2 * 96 * 5),
        (["--imgsz", "32", "--layer", "relu3,last", "--pool", "avg"], TransferClassifier, 64 + 96),
        (["--imgsz", "32", "--flip", "--pool", "max"], TransferClassifier, 96),
        (["--imgsz", "32", "--norm", "none", "--pool", "max"], TransferClassifier, 96),
        (["--imgsz", "32", "--loss", "squares", "--c", "3"], Classifier, 96 * 50),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_flags_make_blocks(
    data: Path, tmp_path: Path, words: list[str], kind: type, length: int
) -> None:
    command = ["classify", "fit", str(data), *SMALL, *words, "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert isinstance(load_classifier(tmp_path / "run" / "model"), kind)
    metrics = _json(tmp_path / "run" / "metrics.json")
    assert metrics["feature_length"] == length
    if "--c" in words:
        assert metrics["chosen"] == [{"c": 3.0, "short_side": 32, "validation": []}]


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--imgsz", "32"],
        ["fit", "--imgsz", "32", "--loss", "squares", "--c", "1", "--flip"],
        ["fit", "--imgsz", "32", "--layer", "relu3,last", "--norm", "power"],
        ["train", "--imgsz", "32", "--epochs", "2"],
        ["train", "--imgsz", "32,48", "--epochs", "2", "--hidden", "16", "--ema", "0.5"],
    ],
    ids=" ".join,
)
def test_classifiers_on_disk_are_those_in_memory_bit_by_bit(
    data: Path, tmp_path: Path, words: list[str], monkeypatch
) -> None:
    saved, save = [], ImageClassifier.save

    def watch(self: ImageClassifier, path: Path) -> None:
        saved.append(self)
        save(self, path)

    monkeypatch.setattr(ImageClassifier, "save", watch)
    command = ["classify", words[0], str(data), *SMALL, *words[1:]]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    (classifier,) = saved
    assert [name for name, each in classifier.tensors().items() if not each.is_contiguous()] == []
    images = [torch.rand(3, 40 + 7 * n, 60, generator=torch.manual_seed(n)) for n in range(8)]
    loaded = load_classifier(tmp_path / "run" / "model")
    assert torch.equal(loaded.scores(images), classifier.scores(images))


def test_short_side_is_chosen_for_each_split(data: Path, tmp_path: Path, capsys) -> None:
    words = ["--imgsz", "auto", "--c", "1", "--train-per-class", "6", "--splits", "2"]
    run = tmp_path / "run"
    assert main(["classify", "fit", str(data), *SMALL, *words, "--out", str(run)]) == 0
    chosen = _json(run / "metrics.json")["chosen"]
    assert len(chosen) == 2
    for choice in chosen:
        figures = {entry["short_side"]: entry["figure"] for entry in choice["validation"]}
        assert set(figures) == {160, 224, 320}
        assert figures[choice["short_side"]] == max(figures.values())
    model = load_classifier(run / "model")
    assert isinstance(model, Classifier)
    assert model.view.short_side == chosen[0]["short_side"]
    assert "chosen on training images" in capsys.readouterr().err


def test_hidden_layer_of_a_trained_model_is_a_feature(data: Path, tmp_path: Path) -> None:
    words = ["--hidden", "16", "--epochs", "1", "--imgsz", "32", "--out", str(tmp_path / "a")]
    assert main(["classify", "train", str(data), *SMALL, *words]) == 0
    folder = str(tmp_path / "a" / "model")
    words = ["--backbone", folder, "--layer", "fc6", "--imgsz", "40", "--out", str(tmp_path / "b")]
    assert main(["classify", "fit", str(data), *words]) == 0
    assert _json(tmp_path / "b" / "metrics.json")["feature_length"] == 16
    assert (
        load_classifier(tmp_path / "b" / "model")
        .score_images([torch.rand(3, 40, 50)])
        .isfinite()
        .all()
    )


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOC set: every image shows one or two patterns, side by side."""
    import numpy as np
    from PIL import Image

    from image_files import make_voc, voc_object, voc_xml, write_split

    rng, stems = np.random.default_rng(0), [f"{number:03d}" for number in range(36)]
    shown = {
        stem: rng.choice(PATTERNS, size=1 + n % 2, replace=False) for n, stem in enumerate(stems)
    }
    boxes = ((1, 1, 40, 60), (41, 1, 80, 60))
    objects = {
        stem: "".join(voc_object(box, name) for box, name in zip(boxes, names, strict=False))
        for stem, names in shown.items()
    }
    root = make_voc(
        tmp_path_factory.mktemp("voc") / "set",
        {stem: voc_xml(objects[stem], f"{stem}.png") for stem in stems},
    )
    for stem, names in shown.items():
        picture = Image.new("RGB", (80, 60))
        for number, name in enumerate(names):
            picture.paste(draw_pattern(name, rng).resize((40, 60)), (40 * number, 0))
        picture.save(root / "JPEGImages" / f"{stem}.png")
    write_split(root, "trainval", "\n".join(stems[:24]))
    write_split(root, "test", "\n".join(stems[24:]))
    return root


def test_voc_sets_are_scored_by_average_precision(voc: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    assert main(["classify", "fit", str(voc), *SMALL, "--imgsz", "60", "--out", str(run)]) == 0
    metrics = _json(run / "metrics.json")
    assert set(metrics["per_class"]) == set(PATTERNS)
    assert metrics["mean_ap"] == pytest.approx(sum(metrics["per_class"].values()) / 4)
    assert 0.4 < metrics["mean_ap"] <= 1  # a third of the images shows a class
    assert metrics["images"] == {"listed": 36, "failed": 0, "train": 24, "test": 12}
    assert "trainval" in metrics["figures_from"]
    assert load_classifier(run / "model").names == PATTERNS
    assert "mean_ap" in capsys.readouterr().out


ENDINGS = [
    (["{data}", "--recipe", "worst"], 2, "recipe must be"),
    (["{data}", "--recipe", "best", "--pool", "avg"], 2, "pool must not be given beside recipe"),
    (["{data}", *SMALL, "--layer", "relu99"], 2, "relu99"),
    (["{data}", *SMALL, "--layer", "fc6"], 2, "no fully connected layer"),
    (["{data}", *SMALL, "--imgsz", "big"], 2, "imgsz must be auto or a number, got 'big'"),
    (["{data}", *SMALL, "--c", "0"], 2, "c must be above 0"),
    (["{data}", *SMALL, "--norm", "l1"], 2, "norm must be one of"),
    (["{data}", *SMALL, "--loss", "cube"], 2, "loss must be one of"),
    (["{data}", *SMALL, "--protocol", "voc12"], 2, "classes or voc07"),
    (["{data}", *SMALL, "--protocol", "voc07"], 2, "needs a split"),
    (["{voc}", *SMALL, "--train-per-class", "3"], 2, "brings its own splits"),
]


@pytest.mark.parametrize(("words", "code", "part"), ENDINGS)
def test_endings(
    data: Path, voc: Path, tmp_path: Path, capsys, words: list[str], code: int, part: str
) -> None:
    command = [word.format(data=data, voc=voc) for word in words]
    assert main(["classify", "fit", *command, "--out", str(tmp_path / "run")]) == code
    error = capsys.readouterr().err
    assert part in error
    assert "Traceback" not in error


def test_dry_run_counts_all_blocks(data: Path, tmp_path: Path, capsys) -> None:
    words = ["--imgsz", "32,48", "--dry-run", "--out", str(tmp_path / "run")]
    assert main(["classify", "fit", str(data), *SMALL, *words]) == 0
    assert "features of 9600 numbers" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_numbers_and_words_fill_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "fit.toml"
    file.write_text('imgsz = 224\nc = 3\nlayer = "relu4,last"')
    settings = load_settings(FitConfig, file, {})
    assert (settings.imgsz, settings.costs) == (224, (3.0,))
    assert recipes_of(settings)[0].blocks == (Block("relu4"), Block())
    file.write_text('imgsz = "auto"\nrecipe = "best"')
    recipes = recipes_of(load_settings(FitConfig, file, {"c": "auto"}))
    assert [recipe.blocks[0].short_side for recipe in recipes] == [160, 224, 320]
    assert recipes[1] == RECIPES["best"]
    file.write_text("c = true")
    with pytest.raises(UsageError, match="c must be"):
        load_settings(FitConfig, file, {})


def test_changed_labels_are_said_and_fitted(tmp_path: Path, capsys) -> None:
    data, words = draw_folders(tmp_path / "data", 4), [*SMALL, "--imgsz", "32", "--c", "1"]
    models = []
    for run in ("run", "run", "fresh"):
        out = tmp_path / run
        assert main(["classify", "fit", str(data), *words, "--out", str(out)]) == 0
        models.append((out / "model" / "model.safetensors").read_bytes())
        said = capsys.readouterr().err
        assert ("the data changed since the run began" in said) == (len(models) == 2)
        if len(models) == 1:
            (data / "disc" / "000.png").rename(data / "level" / "disc.png")
    assert models[0] != models[1] == models[2]


def test_a_disk_that_will_not_do_is_said_before_the_features(
    data: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Mock(free=1000))
    words = [*SMALL, "--out", str(tmp_path / "run"), "--dry-run"]
    assert main(["classify", "fit", str(data), *words]) == 0
    assert "where 1.0 kB are free; --cache DIR" in capsys.readouterr().err
