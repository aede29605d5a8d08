"""The compiled segmentation and grouping against loops, and its promises about bits and input."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from oracles.graph_grouping import graph_rows, to_planes
from processors import capabilities_to_ask_for
from sppnet.detection import propose
from sppnet.detection.proposals import graph as graph_kernel
from sppnet.detection.proposals.graph import graph_proposals, group_segments
from sppnet.errors import MissingPackageError


def draw(kind: str, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Small pictures: noise, few colours (many ties), one colour, blocks with noise on them."""
    generator = torch.manual_seed(seed)
    if kind == "noise":
        return torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8)
    if kind == "ties":
        return 85 * torch.randint(0, 4, (3, height, width), generator=generator).to(torch.uint8)
    if kind == "flat":
        return torch.full((3, height, width), 77, dtype=torch.uint8)
    blocks = torch.randint(40, 216, (3, height // 5 + 1, width // 6 + 1), generator=generator)
    blocks = blocks.repeat_interleave(5, 1).repeat_interleave(6, 2)[:, :height, :width]
    return (blocks + torch.randint(-9, 10, blocks.shape, generator=generator)).to(torch.uint8)


def rows_of(pixels: torch.Tensor, spaces: list[str], ks: list[float]) -> np.ndarray:
    boxes, runs, places = group_segments(pixels, spaces, ks)
    return np.concatenate([boxes, runs[:, None], places[:, None]], 1)


def digest(image: torch.Tensor) -> str:
    return hashlib.sha256(graph_proposals(image).numpy().tobytes()).hexdigest()


def test_this_machine_has_a_kernel() -> None:
    """Tests of a kernel that is not there would prove nothing."""
    name = graph_kernel.kernel_name()
    assert name is not None, "reinstall: pip install -e '.[dev]' compiles it"


@pytest.mark.parametrize("space", ["rgb", "hsv", "lab"])
@pytest.mark.parametrize("kind", ["noise", "ties", "blocks", "flat"])
@pytest.mark.parametrize(
    ("size_hw", "ks"), [((13, 18), [4, 9]), ((21, 16), [12, 30, 80]), ((9, 11), [1.5, 300])]
)
def test_all_regions_are_those_of_the_loops(space: str, kind: str, size_hw, ks) -> None:
    pixels = draw(kind, *size_hw)
    expected = np.array(graph_rows(pixels.numpy(), [space], ks))
    assert (rows_of(pixels, [space], ks) == expected).all()
    assert len(expected) >= (1 if kind == "flat" else 4) * 2 * len(ks) or ks[0] > 10


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 2), (2, 1), (1, 40), (40, 1), (2, 33), (3, 3)])
def test_thin_images_are_those_of_the_loops(size_hw: tuple[int, int]) -> None:
    pixels = draw("ties", *size_hw)
    expected = np.array(graph_rows(pixels.numpy(), ["hsv", "lab"], [2, 6]))
    assert (rows_of(pixels, ["hsv", "lab"], [2, 6]) == expected).all()


def test_colour_spaces_are_opencvs() -> None:
    pixels = draw("noise", 60, 70)
    rows = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    ours = to_planes(pixels.numpy(), "lab").transpose(1, 2, 0)
    theirs = cv2.cvtColor(rows.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    scaled = theirs * np.float32([2.55, 1, 1]) + np.float32([0, 128, 128])
    assert abs(ours - scaled).max() < 0.6
    ours = to_planes(pixels.numpy(), "hsv").transpose(1, 2, 0)
    theirs = cv2.cvtColor(rows, cv2.COLOR_RGB2HSV).astype(np.float32)
    turn = abs(ours - theirs)
    assert np.minimum(turn, abs(turn - [180, 0, 0])).max() <= 1


def test_joining_ends_with_the_whole_image_and_doubles_the_segments() -> None:
    pixels = draw("blocks", 60, 80)
    boxes, runs, places = group_segments(pixels, ["lab"], [20, 60])
    for run in range(4):
        mine = boxes[runs == run]
        assert mine[-1].tolist() == [0, 0, 80, 60]
        assert len(mine) % 2 == 1  # n segments and n - 1 joins
        assert places[runs == run].tolist() == list(range(len(mine)))[::-1]
    assert (runs == 2).sum() < (runs == 0).sum()


def test_every_number_of_threads_gives_the_same_proposals() -> None:
    image = draw("blocks", 120, 150) / 255
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(graph_proposals(image))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, found[0]) for each in found)


def test_eight_python_threads_at_once_get_their_own_answers() -> None:
    images = [draw("blocks", 40 + n, 50 - n, n) / 255 for n in range(8)]
    expected = [graph_proposals(image) for image in images]
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(graph_proposals, images))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


PROGRAM = """
import hashlib, torch
from sppnet.detection.proposals.graph import kernel_name, group_segments
pixels = torch.randint(0, 256, (3, 90, 120), generator=torch.manual_seed(1)).to(torch.uint8)
rows = b"".join(each.tobytes() for each in group_segments(pixels, ["hsv", "lab"], [20, 90]))
print(kernel_name(), hashlib.sha256(rows).hexdigest())
"""


def test_every_generation_of_processors_gives_the_same_regions() -> None:
    found = {}
    for capability in capabilities_to_ask_for():
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        output = subprocess.check_output(
            [sys.executable, "-c", PROGRAM], env=environment, text=True
        )
        name, value = output.split()
        found[name] = value
    assert "baseline" in found
    assert len(set(found.values())) == 1


def test_runs_that_agree_and_whole_contours_come_first() -> None:
    image = torch.full((3, 120, 160), 0.4)
    image += 0.02 * torch.rand(image.shape, generator=torch.manual_seed(0))
    image[:, 30:70, 50:110] = torch.tensor([0.9, 0.2, 0.1])[:, None, None]
    first = graph_proposals(image)[:3]
    thing = torch.tensor([50.0, 30, 110, 70])
    assert bool(((first - thing).abs().amax(1) <= 2).any())


def test_proposals_are_distinct_and_the_seed_does_not_matter() -> None:
    image = draw("blocks", 100, 130) / 255
    proposals = graph_proposals(image)
    assert len(proposals.unique(dim=0)) == len(proposals) > 100
    assert torch.equal(graph_proposals(image, seed=9), proposals)


@pytest.mark.parametrize(
    ("pixels", "spaces", "ks", "rule"),
    [
        (torch.zeros(3, 4, 4), ["lab"], [9], "uint8"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), ["lab"], [9], r"\(3, H, W\)"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), ["lab"], [9], r"\(3, H, W\)"),
        (torch.zeros(3, 1, 1, dtype=torch.uint8).expand(3, 1500, 1500), ["lab"], [9], "at most"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), ["luv"], [9], "spaces"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), [], [9], "spaces"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), ["lab"], [9, 5], "rise"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), ["lab"], [0.5], "at least 1"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), ["lab"], [float("nan")], "at least 1"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), ["lab"], list(range(1, 40)), "times"),
    ],
)
def test_what_the_library_would_not_survive_is_refused(pixels, spaces, ks, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        group_segments(pixels, spaces, ks)


def test_strides_are_not_assumed() -> None:
    pixels = draw("blocks", 40, 50)
    turned = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert not turned.is_contiguous()
    for ours, theirs in zip(
        group_segments(turned, ["hsv"], [9]), group_segments(pixels, ["hsv"], [9]), strict=True
    ):
        assert (ours == theirs).all()


def test_without_a_kernel_the_error_names_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_kernel, "kernel_name", lambda: None)
    graph_kernel._function.cache_clear()
    with pytest.raises(MissingPackageError, match=r"pip install .* --proposals grid"):
        propose(torch.zeros(3, 40, 50), "graph")


def test_no_memory_is_an_error_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_kernel, "_function", lambda: lambda *_arguments: -1)
    with pytest.raises(MemoryError, match="40 x 50"):
        propose(torch.zeros(3, 40, 50), "graph")
