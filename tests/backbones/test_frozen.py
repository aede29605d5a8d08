"""A frozen trunk in onnxruntime gives torch's maps; all that is not frozen stays with torch."""

import copy
import importlib.util
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sppnet.backbones import Backbone, build_backbone, restore_backbone
from sppnet.backbones.frozen import FrozenTrunk
from sppnet.errors import MissingPackageError, UnusableFileError

ROUNDING = 1e-5  # of the largest value
# The least image, odd sides, thin strips, and usual ones.
SIZES = ((1, 1), (33, 47), (17, 300), (300, 17), (160, 224))
TRUNKS = (
    ("small5", None),
    ("efficientnet_lite0", "stage5+stage7"),
    ("squeezenet1_1", None),  # windows that overhang the map
    ("resnet18", "layer3"),
    ("mobilenet_v3_small", None),  # gates over the whole map
    ("densenet121", "features.denseblock2+features.denseblock3"),  # layers that work in place
    ("timm:resnet18", None),
)
KNOWN_TO_TORCH_ONLY = ("zf5", "convnext_tiny", "shufflenet_v2_x0_5", "timm:vit_tiny_patch16_224")


CONVOLVE = """
import torch
from sppnet.backbones import build_backbone
with torch.no_grad():
    build_backbone("small5").with_engine("onnxruntime")(torch.rand(1, 3, 64, 64))
"""


def build(name: str, layer: str | None = None) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, layer=layer)


def apart(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks onnxruntime fails."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("onnxruntime was asked")

    monkeypatch.setattr(FrozenTrunk, "_compute", refuse)


@pytest.mark.parametrize(("name", "layer"), TRUNKS)
def test_maps_are_those_of_torch_at_every_size(name: str, layer: str | None) -> None:
    backbone = build(name, layer)
    frozen = backbone.with_engine("onnxruntime")
    assert (backbone.engine, frozen.engine) == ("torch", "onnxruntime")
    for number, size in enumerate(SIZES):
        images = torch.rand(1 + number % 2, 3, *size)
        with torch.no_grad():
            assert apart(frozen(images), backbone(images)) < ROUNDING
            order = torch.channels_last
            maps = frozen(images.contiguous(memory_format=order))
            assert apart(maps, backbone(images)) < ROUNDING


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("small5", ["relu2", None, "relu2", "norm3"]),
        ("resnet18", ["layer1.0.bn2", "layer2", None]),  # bn2 is changed in place afterwards
        ("efficientnet_lite0", ["stage3", "stage5", "stage7"]),
    ],
)
def test_several_layers_are_those_of_torch(name: str, layers: list[str | None]) -> None:
    backbone, images = build(name), torch.rand(2, 3, 75, 110)
    with torch.no_grad():
        expected = backbone.tap(images, layers)
        found = backbone.with_engine("onnxruntime").tap(images, layers)
    assert all(apart(*pair) < ROUNDING for pair in zip(found, expected, strict=True))


def test_a_joined_layer_that_is_changed_in_place_later_is_as_in_torch() -> None:
    backbone, images = build("resnet18", "layer1.0.bn2+layer2"), torch.rand(1, 3, 75, 110)
    with torch.no_grad():
        assert apart(backbone.with_engine()(images), backbone(images)) < ROUNDING


def test_bits_depend_on_neither_threads_nor_company_nor_the_run() -> None:
    frozen, images = build("efficientnet_lite0").with_engine(), torch.rand(3, 3, 90, 131)
    with torch.no_grad():
        maps = frozen(images)
        for threads in (2, 3, 1):
            torch.set_num_threads(threads)
            assert torch.equal(frozen(images), maps)
        alone = [frozen(image[None]) for image in images]
        again = build("efficientnet_lite0").with_engine()(images)
    assert torch.equal(torch.cat(alone), maps)
    assert torch.equal(again, maps)


@pytest.mark.parametrize("name", KNOWN_TO_TORCH_ONLY)
def test_a_trunk_with_other_layers_stays_with_torch(name: str) -> None:
    backbone = build(name)
    assert backbone.with_engine("auto").engine == "torch"
    with pytest.raises(ValueError, match=f"engine of {name} must be torch, got 'onnxruntime'"):
        backbone.with_engine("onnxruntime")


def test_gradients_training_and_other_numbers_are_torchs(no_session: None) -> None:
    frozen, images = build("small5").with_engine(), torch.rand(2, 3, 40, 40)
    frozen(images).sum().backward()
    assert all(weights.grad is not None for weights in frozen.parameters())
    with torch.no_grad():
        frozen.train()(images)
        frozen.eval().double()(images.double())
        frozen.float()(images[:0])
        with torch.autocast("cpu", torch.bfloat16):
            frozen(images)
        torch.func.vmap(frozen)(images[None])
    with torch.inference_mode():
        copy.deepcopy(frozen)(images)  # nobody counts how often its weights are written
    with pytest.raises(AssertionError, match="onnxruntime was asked"), torch.no_grad():
        frozen(images)


def test_weights_that_change_are_noticed() -> None:
    frozen, images = build("small5").with_engine(), torch.rand(1, 3, 50, 60)
    plain = frozen.with_engine("torch")
    other = build_backbone("small5").state_dict()
    with torch.no_grad():
        first = frozen(images)
        next(frozen.parameters()).mul_(2)
        doubled = frozen(images)
        assert apart(doubled, plain(images)) < ROUNDING < apart(doubled, first)
        frozen.load_state_dict(other)
        assert apart(frozen(images), plain(images)) < ROUNDING < apart(plain(images), doubled)


def test_copies_compute_the_same_and_have_weights_of_their_own() -> None:
    frozen, images = build("small5").with_engine(), torch.rand(1, 3, 50, 60)
    other = copy.deepcopy(frozen)
    with torch.no_grad():
        maps = frozen(images)
        assert other.engine == "onnxruntime"
        assert torch.equal(other(images), maps)
        next(other.parameters()).zero_()
        assert not torch.equal(other(images), maps)
        assert torch.equal(frozen(images), maps)


def test_sessions_stay_behind_when_they_are_pickled() -> None:
    backbone, images = build("small5"), torch.rand(1, 3, 64, 64)
    sessions = FrozenTrunk()
    maps = sessions.run(backbone.trunk, images)
    again = pickle.loads(pickle.dumps(sessions))
    assert torch.equal(again.run(backbone.trunk, images), maps)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_process_computes_the_same(tmp_path: Path) -> None:
    frozen, images = build("small5").with_engine(), torch.rand(1, 3, 64, 64)
    torch.set_num_threads(2)  # the fork has the session, but none of its threads

    def convolve(file: Path) -> None:
        with torch.no_grad():
            torch.save(frozen(images), file)

    convolve(tmp_path / "parent")
    child = multiprocessing.get_context("fork").Process(target=convolve, args=[tmp_path / "child"])
    child.start()
    child.join(60)
    torch.set_num_threads(1)
    alive, code = child.is_alive(), child.exitcode
    child.kill()
    assert (alive, code) == (False, 0)
    found, expected = (torch.load(tmp_path / name) for name in ("child", "parent"))
    assert torch.equal(found, expected)


def test_a_restored_trunk_has_its_engine() -> None:
    frozen, images = build("small5").with_engine(), torch.rand(1, 3, 50, 60)
    config = frozen.config()
    assert config["engine"] == "onnxruntime"
    again = restore_backbone(config, frozen.state_dict())
    with torch.no_grad():
        assert torch.equal(again(images), frozen(images))
    del config["engine"]  # as in models of version 0.1
    assert restore_backbone(config, frozen.state_dict()).engine == "torch"
    for wrong in ("auto", "tvm", None, 3):
        with pytest.raises(UnusableFileError, match="engine"):
            restore_backbone({**config, "engine": wrong}, frozen.state_dict())


def test_a_missing_engine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = build("small5").with_engine()
    plain = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else plain(name)
    )
    assert frozen.with_engine("auto").engine == "torch"
    for ask in (
        lambda: frozen.with_engine("onnxruntime"),
        lambda: restore_backbone(frozen.config(), frozen.state_dict()),
    ):
        with pytest.raises(MissingPackageError, match=r"runs in .*: pip install onnxrun"):
            ask()


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="engine must be one of auto, onnxruntime, torch, got 'x'"):
        build("small5").with_engine("x")


def test_onnxruntime_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    """It keeps what it would send, and a number of this machine, below the caches of the user."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache")}
    command = [sys.executable, "-c", CONVOLVE]
    subprocess.run(command, env=environment, check=True, timeout=600)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
