"""Proposals: the same proposals every time, inside the image, over the things that are there."""

import hashlib
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from sppnet.app.main import main
from sppnet.detection import PROPOSERS, propose
from sppnet.detection.proposals.propose import shrink_to_search, take_turns
from sppnet.errors import MissingPackageError
from sppnet.geometry import box_iou
from sppnet.images import draw_detection_set, load_image, open_detection_dataset

METHODS = [*sorted(PROPOSERS), "graph+grid"]
QUICK = [method for method in METHODS if method != "selective_search_quality"]  # as the fast mode


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    folder = draw_detection_set(tmp_path_factory.mktemp("scenes") / "data", 8, seed=3)
    return open_detection_dataset(folder)


@pytest.fixture(scope="module")
def photo(scenes) -> torch.Tensor:
    return load_image(scenes[0].path)


def _rows(boxes: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in boxes.tolist()}


def _digest(boxes: torch.Tensor) -> str:
    return hashlib.sha256(boxes.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("method", METHODS)
def test_proposals_lie_inside_and_the_whole_image_comes_first(photo, method: str) -> None:
    boxes = propose(photo, method)
    height, width = photo.shape[1:]
    assert boxes.dtype == torch.float32
    assert boxes[0].tolist() == [0, 0, width, height]
    assert 50 < len(boxes) <= 2000
    assert bool((boxes >= 0).all())
    assert bool((boxes[:, 2] <= width).all() & (boxes[:, 3] <= height).all())
    thinnest = (boxes[:, 2:] - boxes[:, :2]).amin()
    assert thinnest >= 0.02 * min(height, width)


@pytest.mark.parametrize("method", QUICK)
def test_limit_takes_the_first(photo, method: str) -> None:
    boxes = propose(photo, method)
    for limit in (1, 2, 57):
        assert torch.equal(propose(photo, method, limit), boxes[:limit])


@pytest.mark.parametrize("method", METHODS)
def test_calls_agree_also_after_the_librarys_random_numbers_moved(photo, method: str) -> None:
    import ctypes

    first = propose(photo, method, seed=5)
    ctypes.CDLL(None).srand(99)  # OpenCV orders its proposals by rand()
    torch.manual_seed(99)
    assert torch.equal(propose(photo, method, seed=5), first)


def test_processes_agree(scenes, photo) -> None:
    script = (
        "import hashlib, sys; from sppnet.detection import propose; "
        "from sppnet.images import load_image; image = load_image(sys.argv[1])\n"
        "for method in sys.argv[2:]:\n"
        "    boxes = propose(image, method, seed=5)\n"
        "    print(hashlib.sha256(boxes.numpy().tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", script, str(scenes[0].path), *QUICK]
    output = subprocess.check_output(command, text=True).split()
    assert output == [_digest(propose(photo, method, seed=5)) for method in QUICK]


@pytest.mark.parametrize("method", ["selective_search", "selective_search_quality"])
def test_seed_changes_the_order_of_selective_search_but_not_the_proposals(photo, method) -> None:
    first, second = (propose(photo, method, 10**6, seed) for seed in (0, 1))
    assert not torch.equal(first, second)
    assert _rows(first) == _rows(second)


@pytest.mark.parametrize("method", ["graph", "edge_boxes", "grid"])
def test_other_methods_are_ranked_so_that_the_seed_does_not_matter(photo, method: str) -> None:
    assert torch.equal(propose(photo, method, seed=0), propose(photo, method, seed=1))


@pytest.mark.parametrize("method", METHODS)
def test_no_proposal_comes_twice(photo, method: str) -> None:
    boxes = propose(photo, method, 10**6)
    assert len(_rows(boxes)) == len(boxes)


def test_quality_mode_finds_more(photo) -> None:
    fast, quality = (
        propose(photo, m, 10**6) for m in ("selective_search", "selective_search_quality")
    )
    assert len(quality) > 1.5 * len(fast)


def test_joined_methods_take_turns_and_share_the_limit(photo) -> None:
    graph, grid = (propose(photo, method, 10**6) for method in ("graph", "grid"))
    joined = propose(photo, "graph+grid", 200)
    assert _rows(graph[:2]) | _rows(grid[:2]) <= _rows(joined[:4])
    for proposals in (graph, grid):
        assert len(_rows(joined) & _rows(proposals[:110])) >= 100
    everything = propose(photo, "grid+graph", 10**6)
    assert _rows(everything) == _rows(graph) | _rows(grid)


def test_taking_turns_goes_on_when_one_has_no_more() -> None:
    assert take_turns([torch.full((n, 4), float(n)) for n in (1, 0, 3)])[:, 0].tolist() == [
        1,
        3,
        3,
        3,
    ]


def _recall(scenes, method: str, limit: int) -> float:
    hits = []
    for image in scenes:
        proposals = propose(load_image(image.path), method, limit)
        hits.append((box_iou(image.boxes, proposals) >= 0.5).any(1))
    return float(torch.cat(hits).float().mean())


@pytest.mark.parametrize(
    ("method", "least"),
    [
        ("graph", 0.95),
        ("grid", 0.9),
        ("selective_search", 0.8),
        ("edge_boxes", 0.8),
    ],
)
def test_drawn_things_are_covered(scenes, method: str, least: float) -> None:
    assert sum(len(image.boxes) for image in scenes) >= 15
    assert _recall(scenes, method, 2000) >= least
    assert _recall(scenes, method, 1) < 0.2  # the whole image alone would be too easy


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "size_hw", [(1, 1), (1, 2), (2, 2), (3, 3), (1, 50), (50, 1), (20, 400), (5, 700)]
)
def test_images_of_any_shape(method: str, size_hw: tuple[int, int]) -> None:
    image = torch.rand(3, *size_hw, generator=torch.manual_seed(0))
    boxes = propose(image, method, 300)
    height, width = size_hw
    assert boxes[0].tolist() == [0, 0, width, height]
    assert bool((boxes[:, 2] <= width).all() & (boxes[:, 3] <= height).all())
    assert bool(((boxes[:, 2:] - boxes[:, :2]) >= 1).all())


@pytest.mark.parametrize("method", METHODS)
def test_flat_image_still_has_proposals(method: str) -> None:
    boxes = propose(torch.full((3, 60, 80), 0.5), method)
    assert boxes[0].tolist() == [0, 0, 80, 60]
    assert boxes.isfinite().all()


def test_large_image_is_searched_small_and_its_proposals_are_mapped_back(photo) -> None:
    large = torch.nn.functional.interpolate(photo[None], (1400, 2100), mode="bilinear")[0]
    boxes = propose(large, "grid")
    assert boxes[0].tolist() == [0, 0, 2100, 1400]
    assert float(boxes[1:, 2].max()) > 1900
    assert float(boxes[1:, 3].max()) > 1200


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"method": "edge"}, "grid"),
        ({"method": ""}, "grid"),
        ({"method": "graph+both"}, "selective_search_quality"),
        ({"method": "grid+grid"}, "different"),
        ({"limit": 0}, "least"),
    ],
)
def test_wrong_arguments_are_named(photo, wrong: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        propose(photo, **wrong)


@pytest.fixture(params=["missing", "without contrib", "contrib without segmentation"])
def poor_opencv(request, monkeypatch) -> str:
    """OpenCV as many people have it."""
    stand_in = {
        "missing": None,  # import raises ImportError
        "without contrib": types.ModuleType("cv2"),
        "contrib without segmentation": types.ModuleType("cv2"),
    }[request.param]
    if request.param == "contrib without segmentation":
        stand_in.ximgproc = types.ModuleType("ximgproc")
    monkeypatch.setitem(sys.modules, "cv2", stand_in)
    return request.param


def test_poor_opencv_is_told_with_the_command_that_mends_it(photo, poor_opencv: str) -> None:
    for method in ("selective_search", "edge_boxes", "grid+selective_search_quality"):
        with pytest.raises(
            MissingPackageError, match=r"pip install \S+ opencv-contrib-python"
        ) as e:
            propose(photo, method)
        assert "--proposals grid" in str(e.value)
        assert ("pip uninstall" in str(e.value)) == (poor_opencv != "missing")
    assert len(propose(photo, "grid")) > 100


def test_poor_opencv_ends_the_command_as_a_usage_error(
    scenes, poor_opencv: str, tmp_path: Path, capsys
) -> None:
    words = ["--backbone", "small5", "--weights", "none", "--imgsz", "64"]
    command = ["detect", "train", str(scenes.root), *words, "--proposals", "selective_search"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "pip install" in line
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_refused(photo, method: str, value: float) -> None:
    spoiled = photo.clone()
    spoiled[1, 3, 4] = value
    with pytest.raises(ValueError, match="finite"):
        propose(spoiled, method)


def test_images_of_another_shape_are_refused() -> None:
    for shape in ((40, 50), (1, 40, 50), (4, 40, 50), (3, 0, 50)):
        with pytest.raises(ValueError, match=r"\(3, H, W\)"):
            propose(torch.zeros(shape), "grid")


def test_the_image_itself_is_searched_if_asked_up_to_a_limit() -> None:
    small = torch.zeros(3, 600, 700)
    assert shrink_to_search(small).shape == (3, 429, 500)
    assert shrink_to_search(small, 0).shape == small.shape
    height, width = shrink_to_search(torch.zeros(3, 3000, 1500), 0).shape[1:]
    assert height * width == pytest.approx(2_000_000, rel=0.01)
    draw = torch.Generator().manual_seed(0)
    photo = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 11, generator=draw), (80, 100))[0]
    found = [propose(photo, "graph", search_side=side) for side in (0, 100, 40)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_thin_proposals_are_dropped_if_asked() -> None:
    photo = torch.rand(3, 80, 100, generator=torch.Generator().manual_seed(0))
    every, wide = (propose(photo, "grid", 500, least_side=side) for side in (0, 20))
    sides = (every[:, 2:] - every[:, :2]).amin(1)
    assert bool((sides < 20).any())
    assert torch.equal(wide[: int((sides >= 20).sum())], every[sides >= 20])
