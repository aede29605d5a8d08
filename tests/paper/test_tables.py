"""Tables run on small data: the same code as on ImageNet and Caltech-101."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sppnet.app.main import main
from sppnet.images import draw_class_folders, draw_detection_set
from sppnet.paper import Measured, Resources, find_table
from sppnet.progress import no_tracking


@pytest.fixture(scope="module")
def small_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_class_folders(tmp_path_factory.mktemp("drawn"), per_class=5)


def run(*words: object) -> tuple[int, dict[str, Any]]:
    """Run the command and read what it wrote."""
    out = Path(str(words[words.index("--out") + 1]))
    code = main(["reproduce", *map(str, words)])
    return code, json.loads((out / f"table-{words[0]}.json").read_text())


def measured(record: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {
        (cell["row"], cell["column"]): cell["measured"]
        for cell in record["cells"]
        if cell["measured"] is not None
    }


def test_table_1_has_the_printed_map_sizes(tmp_path: Path) -> None:
    result = find_table(1).run(Resources(tmp_path), no_tracking)
    assert not result.not_run
    assert len(result.measured) == 22
    for cell in result.measured:
        expected = result.printed.value(cell.row, cell.column)
        if (cell.column, cell.row) == ("ZF-5", "conv2"):
            expected = 26  # the printed 27 cannot be the released network's
        assert cell.value == expected, cell


def test_tables_2_to_4_train_and_score_on_class_folders(
    small_folders: Path, tmp_path: Path
) -> None:
    common = ("--data", small_folders, "--models", tmp_path / "nets", "--train", "--epochs", 1)
    small = ("--imgsz", "48,64", "--hidden", 8, "--batch", 16, "--limit", 3)
    words = (*common, *small, "--networks", "ZF-5", "--out", tmp_path / "two")
    code, record = run(2, *words)
    assert code == 0
    found = measured(record)
    assert len(found) == 6
    assert all(0 <= value <= 100 for value in found.values())
    assert (tmp_path / "two" / "table-2.html").is_file()
    assert (tmp_path / "nets" / "zf5-no-spp" / "model" / "model.safetensors").is_file()
    cell = next(cell for cell in record["cells"] if cell["measured"] is not None)
    assert "6 classes instead of ImageNet's 1000" in cell["differs"]
    assert "1 epochs" in cell["differs"] or "1 epoch" in cell["differs"]

    trained = ("--data", small_folders, "--models", tmp_path / "nets", "--limit", 3)
    code, record = run(3, *trained, "--networks", "ZF-5", "--out", tmp_path / "three")
    assert code == 0  # the networks that table 2 trained are taken
    assert len(measured(record)) == 4


def test_missing_data_and_networks_are_named(
    small_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, record = run(2, "--data", tmp_path / "nowhere", "--out", tmp_path / "a")
    assert code == 4
    assert not measured(record)
    assert str(tmp_path / "nowhere" / "imagenet") in capsys.readouterr().err
    code, record = run(4, "--data", small_folders, "--out", tmp_path / "b")
    assert code == 4
    said = capsys.readouterr().err
    assert str(tmp_path / "b" / "models" / "overfeat7-multi") in said
    assert "not public" in said


def test_a_table_or_network_that_does_not_exist_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "5"]) == 2
    assert main(["reproduce", "2", "--networks", "resnet"]) == 2
    assert "ZF-5, Convnet*-5, Overfeat-5, Overfeat-7" in capsys.readouterr().err


def test_numbers_stand_beside_the_printed_ones(tmp_path: Path) -> None:
    result = find_table(1).run(Resources(tmp_path), no_tracking)
    cell = next(record for record in result.records() if record["column"] == "Overfeat-7")
    assert cell["paper"] == cell["measured"] == 36
    result.add(Measured("conv1", "ZF-5", 54.0))
    assert "54" in str(result.records()[0]["measured"])


def test_table_7_on_class_folders_with_a_stand_in(small_folders: Path, tmp_path: Path) -> None:
    words = ("--data", small_folders, "--backbone", "small5", "--weights", "none", "--splits", 2)
    code, record = run(7, *words, "--out", tmp_path)
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
    code, record = run(7, *words, "--networks", "ZF-5", "--out", tmp_path / "out")
    assert code == 3
    assert measured(record)
    assert [Path(problem["path"]).name for problem in record["problems"]] == ["broken.png"]
    assert str(broken) in capsys.readouterr().err


def test_tables_6_and_8_on_a_voc_folder(tmp_path: Path) -> None:
    root = draw_detection_set(tmp_path / "voc", count=12, seed=0)
    words = ("--data", root, "--backbone", "small5", "--weights", "none")
    code, record = run(6, *words, "--networks", "ZF-5", "--out", tmp_path / "six")
    assert code == 3
    assert measured(record)
    code, record = run(8, *words, "--out", tmp_path / "eight")
    assert code == 3  # Caltech-101 is missing
    assert set(measured(record)) == {("SPP-net", "VOC 2007")}
