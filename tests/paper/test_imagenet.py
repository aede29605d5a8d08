"""Tables 1 to 4 on small class folders: the same code as on ImageNet."""

from pathlib import Path

import pytest

from reproduce_runs import measured, reproduce
from sppnet.paper import Resources, find_table
from sppnet.progress import no_tracking


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
    code, record = reproduce(2, *words)
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
    code, record = reproduce(3, *trained, "--networks", "ZF-5", "--out", tmp_path / "three")
    assert code == 0  # the networks that table 2 trained are taken
    assert len(measured(record)) == 4


def test_missing_data_and_networks_are_named(
    small_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, record = reproduce(2, "--data", tmp_path / "nowhere", "--out", tmp_path / "a")
    assert code == 4
    assert not measured(record)
    assert str(tmp_path / "nowhere" / "imagenet") in capsys.readouterr().err
    code, record = reproduce(4, "--data", small_folders, "--out", tmp_path / "b")
    assert code == 4
    said = capsys.readouterr().err
    assert str(tmp_path / "b" / "models" / "overfeat7-multi") in said
    assert "not public" in said
