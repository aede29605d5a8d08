"""Tables 6 to 8 on small data: the same code as on VOC 2007 and Caltech-101."""

import shutil
from pathlib import Path

import pytest

from reproduce_runs import measured, reproduce
from sppnet.images import draw_detection_set


def test_table_7_on_class_folders_with_a_stand_in(small_folders: Path, tmp_path: Path) -> None:
    words = ("--data", small_folders, "--backbone", "small5", "--weights", "none", "--splits", 2)
    code, record = reproduce(7, *words, "--out", tmp_path)
    assert code == 3  # the columns that need the paper's own networks are not there
    found = measured(record)
    full = "(c) SPP, ZF-5, full 224"
    assert {row for row, column in found if column == full} == {"pool5/7 (6x6)", "SPP pool5/7"}
    assert all(0 <= value <= 100 for value in found.values())
    cell = next(cell for cell in record["cells"] if cell["measured"] is not None)
    assert cell["deviation"] is not None
    assert "small5, weights none" in cell["differs"]
    assert any("without SPP" in reason for reason in record["not_measured"])


def test_unreadable_images_are_named_and_the_rest_is_used(
    small_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_folders, data)
    broken = next(path for path in sorted(data.iterdir()) if path.is_dir()) / "broken.png"
    broken.write_bytes(b"no image")
    words = ("--data", data, "--backbone", "small5", "--weights", "none", "--splits", 1)
    code, record = reproduce(7, *words, "--networks", "ZF-5", "--out", tmp_path / "out")
    assert code == 3
    assert measured(record)
    assert [Path(problem["path"]).name for problem in record["problems"]] == ["broken.png"]
    assert str(broken) in capsys.readouterr().err


def test_tables_6_and_8_on_a_voc_folder(tmp_path: Path) -> None:
    root = draw_detection_set(tmp_path / "voc", count=12, seed=0)
    words = ("--data", root, "--backbone", "small5", "--weights", "none")
    code, record = reproduce(6, *words, "--networks", "ZF-5", "--out", tmp_path / "six")
    assert code == 3
    assert measured(record)
    code, record = reproduce(8, *words, "--out", tmp_path / "eight")
    assert code == 3  # Caltech-101 is missing
    assert set(measured(record)) == {("SPP-net", "VOC 2007")}
