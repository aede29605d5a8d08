"""Tables by number, and measured numbers beside the printed ones."""

from pathlib import Path

import pytest

from sppnet.app.main import main
from sppnet.paper import Measured, Resources, find_table
from sppnet.progress import no_tracking


def test_a_table_or_network_that_does_not_exist_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "14"]) == 2
    assert main(["reproduce", "2", "--networks", "resnet"]) == 2
    assert "ZF-5, Convnet*-5, Overfeat-5, Overfeat-7" in capsys.readouterr().err


def test_numbers_stand_beside_the_printed_ones(tmp_path: Path) -> None:
    result = find_table(1).run(Resources(tmp_path), no_tracking)
    cell = next(record for record in result.records() if record["column"] == "Overfeat-7")
    assert cell["paper"] == cell["measured"] == 36
    result.add(Measured("conv1", "ZF-5", 54.0))
    assert "54" in str(result.records()[0]["measured"])
