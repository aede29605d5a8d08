"""Features are worked out once per content, weights and settings; bad images are left out."""

from pathlib import Path

import pytest
import torch

from small_photos import draw_folders, spoil
from sppnet.backbones import Backbone, build_backbone
from sppnet.classification import View, build_pool, extract_features
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


def test_damaged_record_is_worked_out_again(
    backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
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
