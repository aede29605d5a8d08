"""``sppnet reproduce claims`` on small drawn data: the same code as on a user's photos."""

import json
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from html_checks import check_page
from sppnet.app.main import main
from sppnet.app.reproduce import CLAIMS_OF_PAPER, job
from sppnet.images import draw_class_folders, draw_detection_set
from sppnet.paper import CLAIMS
from sppnet.paper.detection import CLAIM_METHODS
from sppnet.paper.detection_setup import ZF, Method
from sppnet.paper.printed import (
    CLAIM_PRECISION,
    CLAIM_SPEED,
    ON_MAPS,
    ONE_LEVEL,
    PYRAMID,
    RCNN,
    SPP,
)

TRUNK = ("--backbone", "small5", "--weights", "none")
LITTLE = ("--imgsz", "32,48", "--epochs", 1, "--batch", 16, "--hidden", "8,8", "--updates", 4)
FEW = ("--limit", 12, "--splits", 2, "--repeats", 2, "--timed", 2)
REGIONS = ("--windows", 6, "--proposals", "grid", "--share", 0.5)
SMALL_SCALE = Method(ZF, (96,))
SMALL = (*TRUNK, *LITTLE, *FEW, *REGIONS)


@pytest.fixture(autouse=True)
def small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's scale would take seconds for every image."""
    monkeypatch.setitem(CLAIM_METHODS, SPP, SMALL_SCALE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with six drawn images each."""
    return draw_class_folders(tmp_path_factory.mktemp("folders"), per_class=6, seed=0)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten drawn images with boxes."""
    return draw_detection_set(tmp_path_factory.mktemp("boxes"), count=10, seed=0)


def run(out: Path, *words: object) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Run the command: exit code, claims by their names, and the page."""
    code = main(["reproduce", "claims", *map(str, words), "--out", str(out)])
    record = json.loads((out / "claims.json").read_text())
    page = (out / "claims.html").read_text()
    return code, {each["claim"]: each for each in record["claims"]}, page


def numbers(claim: dict[str, Any]) -> list[float]:
    """What was measured of a claim."""
    return [cell["measured"] for cell in claim["cells"]]


@dataclass(frozen=True)
class Whole:
    """A run that measures all claims."""

    words: tuple[object, ...]
    out: Path
    code: int
    claims: dict[str, dict[str, Any]]
    page: str
    said: str


@pytest.fixture(scope="module")
def whole(folders: Path, boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """All claims, measured once."""
    words = ("--data", folders, "--boxes", boxes, *SMALL)
    out, said = tmp_path_factory.mktemp("whole"), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setitem(CLAIM_METHODS, SPP, SMALL_SCALE)
        return Whole(words, out, *run(out, *words), said.getvalue())


def test_every_claim_is_measured_and_has_the_papers_number_beside(whole: Whole) -> None:
    assert whole.code == 0
    assert list(whole.claims) == [claim.printed.title for claim in CLAIMS]
    check_page(whole.page)
    for claim in CLAIMS:
        cells = {cell["row"]: cell for cell in whole.claims[claim.printed.title]["cells"]}
        assert list(cells) == list(claim.printed.rows)
        assert all(cell["measured"] is not None for cell in cells.values())
        assert all(cell["deviation"] is not None for cell in cells.values())
        printed = [value for (value,) in claim.printed.rows.values()]
        assert [cell["paper"] for cell in cells.values()] == printed
        assert claim.printed.title in whole.page
        assert claim.printed.title in whole.said
    for number in ("91.44", "89.46", "89.47", "37.55", "37.07", "58", "59.20", "14.46", "0.142"):
        assert f">{number}<" in whole.page, number
    assert whole.page.count("<svg role=") == len(CLAIMS)
    assert whole.page.count('class="spread"') == 2 * len(CLAIMS)
    assert "small5, weights none" in whole.page
    assert "2 random splits" in whole.page
    assert re.search("done in .*; about .* left for", whole.said)


def test_means_and_deviations_are_those_of_the_splits(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from sppnet.paper import transfer

    seen: dict[str, list[float]] = {}
    fit = transfer.fit_blocks

    def keep(*args: Any, **more: Any) -> Any:
        for row, result in fit(*args, **more):
            seen[row] = [100 * split["mean_class_accuracy"] for split in result.per_split]
            yield row, result

    monkeypatch.setattr(transfer, "fit_blocks", keep)
    monkeypatch.setattr(job, "CLAIMS", CLAIMS[:1])
    _, claims, _ = run(tmp_path, "--data", folders, *TRUNK, "--splits", 4)
    cells = list(claims[CLAIMS[0].printed.title]["cells"])
    gain = np.array(seen[PYRAMID]) - np.array(seen[ONE_LEVEL])
    for cell, values in zip(cells, (seen[ONE_LEVEL], seen[PYRAMID], gain), strict=True):
        assert len(values) == 4
        assert cell["measured"] == pytest.approx(np.mean(values))
        assert cell["deviation"] == pytest.approx(np.std(values, ddof=1))


def test_a_claim_without_its_data_is_left_out_in_words(
    boxes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job, "CLAIMS", tuple(c for c in CLAIMS if c.printed != CLAIM_PRECISION))
        code, claims, page = run(tmp_path / "a", "--data", boxes, *SMALL)
    assert code == 3
    measured = [name for name, claim in claims.items() if claim["verdict"] != "left out"]
    assert measured == [CLAIM_SPEED.title]
    assert page.count("Left out: class folders") == 5
    said = capsys.readouterr().err
    assert "claim 1 needs class folders" in said
    assert "not measured: class folders (a folder of photos for each class) are not there" in said

    code, claims, page = run(tmp_path / "b", "--data", tmp_path / "nowhere", *SMALL)
    assert code == 4
    assert {each["verdict"] for each in claims.values()} == {"left out"}
    assert page.count("Left out: ") == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.printed.title in page


def test_data_that_are_no_good_for_a_claim_do_not_stop_the_others(tmp_path: Path) -> None:
    draw_class_folders(tmp_path / "one", per_class=1, seed=0)  # nothing is left to score on
    words = ("--data", tmp_path / "one", *SMALL)
    code, claims, page = run(tmp_path / "out", *words)
    assert code == 3
    (speed,) = (each for each in claims.values() if each["claim"] == CLAIM_SPEED.title)
    assert speed["verdict"] != "left out"  # photos are all it needs
    assert claims[CLAIMS[0].printed.title]["verdict"] == "left out"
    assert re.search(r"Left out: .*has 1 image", page)


def test_a_second_run_takes_what_is_kept(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sppnet.paper.detection_experiment.SvmTrainer", None)
    monkeypatch.setattr("sppnet.classification.transfer.features._compute", None)
    with monkeypatch.context() as patch:
        patch.setattr(job, "_measure_claim", None)  # not one is measured again
        _, again, page = run(whole.out, *whole.words)
    assert again == whole.claims
    check_page(page)
    assert capsys.readouterr().err.count("(done already)") == len(CLAIMS)
    _, again, _ = run(whole.out, *whole.words, "--fresh")  # features and detectors stay
    timed = {CLAIM_SPEED.title, CLAIMS[-1].printed.title}  # seconds are measured anew
    for name in whole.claims.keys() - timed:
        assert numbers(whole.claims[name]) == numbers(again[name]), name


def test_a_run_that_was_stopped_goes_on_with_the_claims_that_are_left(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--data", folders, *SMALL)
    measure, measured = job._measure_claim, list[int]()

    def stop_at_the_third(claim: Any, resources: Any) -> Any:
        measured.append(claim.printed.number)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure(claim, resources)

    monkeypatch.setattr(job, "_measure_claim", stop_at_the_third)
    out = ("--out", str(tmp_path / "out"))
    assert main(["reproduce", "claims", *map(str, words), *out, "--only", "1,2,7"]) == 130
    assert measured == [1, 2, 7]
    code, claims, _ = run(tmp_path / "out", *words, "--only", "1,7")
    assert code == 0
    assert measured == [1, 2, 7, 7]
    titles = [CLAIMS[n - 1].printed.title for n in (1, 2, 7)]
    assert list(claims) == titles  # also the one that was not asked for: it is there

    photo = min(path for path in folders.rglob("*.*") if path.is_file())
    bytes_of_photo = photo.read_bytes()
    photo.write_bytes(bytes_of_photo + b" ")
    try:
        run(tmp_path / "out", *words, "--only", "2")
    finally:
        photo.write_bytes(bytes_of_photo)
    assert measured == [1, 2, 7, 7, 2]  # other files


def test_a_kept_claim_that_is_spoilt_is_measured_again(folders: Path, tmp_path: Path) -> None:
    words = ("--data", folders, *SMALL, "--only", 2)
    _, claims, _ = run(tmp_path, *words)
    for text in ("{", "[]", '{"data": 3}', "null"):
        (tmp_path / "claim-2.json").write_text(text)
        _, again, _ = run(tmp_path, *words)
        name = CLAIMS[1].printed.title
        assert numbers(again[name]) == numbers(claims[name])


def test_images_to_fit_to_are_as_many_as_asked_for(folders: Path, tmp_path: Path) -> None:
    words = ("--data", folders, *SMALL, "--limit", 36, "--only", "2", "--train-per-class", 3)
    _, claims, page = run(tmp_path, *words)
    (claim,) = claims.values()
    assert "3 images of each class to fit" in claim["cells"][0]["differs"]
    assert "3 images of each class to fit" in page


def test_little_is_quick_and_flags_stay(folders: Path, tmp_path: Path) -> None:
    words = ("--data", folders, *TRUNK, "--quick", "--splits", 2, "--only", 2)
    _, claims, _ = run(tmp_path, *words)
    (claim,) = claims.values()
    assert "2 random splits" in claim["cells"][0]["differs"]
    record = json.loads((tmp_path / "claims.json").read_text())["configuration"]
    assert (record["part"], record["effort"]["windows"], record["repeats"]) == (0.3, 32, 2)


def test_the_plan_follows_the_budget(tmp_path: Path) -> None:
    from dataclasses import replace

    from sppnet.app.reproduce import OF_CLAIMS
    from sppnet.paper import Budget, NetworkTrainingConfig, Resources

    training = NetworkTrainingConfig(OF_CLAIMS.epochs, (96, 128), (256, 256), OF_CLAIMS.batch)
    timed = Budget(timed=OF_CLAIMS.timed)
    usual = Resources(tmp_path, training=training, splits=5, repeats=3, budget=timed)
    planned = [claim.seconds(usual) for claim in CLAIMS]
    # what each took in the run of docs/reproduce.md
    for seconds, took in zip(planned, (129, 12, 431, 1958, 32, 190, 6), strict=True):
        assert took / 1.6 < seconds < took * 1.6
    less = replace(usual, splits=3, repeats=2, part=0.5, budget=Budget(timed=2, max_proposals=32))
    assert all(a > b for a, b in zip(planned, (c.seconds(less) for c in CLAIMS), strict=True))


def test_the_verdict_asks_for_more_than_the_deviation() -> None:
    from sppnet.paper import TableResult
    from sppnet.paper.tables import compare

    def verdict(claim: Any, old: list[float], new: list[float]) -> str:
        result = TableResult(claim.printed)
        for cell in compare(claim.claim, old, new):
            result.add(cell)
        return claim.verdict(result)

    pyramid, sizes, precision, speed = CLAIMS[0], CLAIMS[2], CLAIMS[3], CLAIMS[4]
    assert verdict(pyramid, [80, 82], [83, 84]) == "holds here"
    assert verdict(pyramid, [83, 84], [80, 82]) == "the opposite here"
    assert verdict(pyramid, [80, 82], [83, 78]).startswith("not seen here")
    assert verdict(sizes, [38, 38], [36, 37]) == "holds here"  # an error: less is better
    assert verdict(precision, [59, 60], [58, 61]) == "holds here: no loss beyond the deviation"
    assert verdict(precision, [59, 60], [61, 62.5]) == "holds here"
    assert verdict(precision, [59, 60], [55, 57]) == "does not hold here"
    assert verdict(speed, [10.0, 12.0], [1.0, 1.0]) == "holds here"
    assert verdict(speed, [1.0, 1.0], [2.0, 2.1]) == "the opposite here"
    assert verdict(pyramid, [80], [83]).startswith("measured once")


def test_ways_are_named_once_and_no_option_is_silently_ignored(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(CLAIM_METHODS) == [RCNN, SPP]
    assert ON_MAPS in CLAIMS[5].printed.rows
    assert main(["reproduce", "7", "--boxes", str(folders)]) == 2
    assert "--boxes is for claims" in capsys.readouterr().err
    assert main(["reproduce", "claim"]) == 2
    assert main(["reproduce", "7", "--quick"]) == 2
    assert "--quick is for claims" in capsys.readouterr().err
    assert len(CLAIMS) == CLAIMS_OF_PAPER
    for wrong in ("8", "0", "speed", ""):
        assert main(["reproduce", "claims", "--only", wrong]) == 2
        assert "--only must be numbers" in capsys.readouterr().err
    words = ["reproduce", "claims", "--data", str(folders), "--out", str(tmp_path), "--dry-run"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count("there: ") == 6
    assert said.count("missing: ") == 1  # boxes
