"""What the pages in docs/ name exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PLACE = re.compile(r"`((?:src|tests|docs|benchmarks)/[\w./*-]+(?:::\w+)?)`")


def missing_places(page: str) -> list[str]:
    """Files, folders and ``file::test`` names in a page that do not exist."""
    return [place for place in _PLACE.findall(page) if not exists(place)]


def exists(place: str) -> bool:
    """Tell whether a file or folder exists and holds the named test."""
    path, _, test = place.partition("::")
    if not test:
        return (ROOT / path).exists()
    if not (ROOT / path).is_file():
        return False
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def rows(page: str) -> list[list[str]]:
    """Cells of all table rows of a page, without headers and rules."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not set(row[0]) <= {"-", " "}]


def test_every_place_in_the_docs_exists() -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")}
    wrong = {name: found for name, page in pages.items() if (found := missing_places(page))}
    assert wrong == {}


def limits_without_a_test(page: str) -> list[str]:
    """Rows of a table of limits whose last cell names no test that exists."""
    table = page.partition("| limit | value |")[2].partition("\n\n")[0]
    found = rows("| limit | value |" + table)[1:]
    return [
        row[0]
        for row in found
        if row[-1] != "there" and not (_PLACE.fullmatch(row[-1]) and exists(row[-1].strip("`")))
    ]


def test_every_limit_of_the_threat_model_names_its_test() -> None:
    for name, least in (("threat_model.md", 14), ("serving.md", 14)):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert page.count("\n| ") >= least
        assert limits_without_a_test(page) == []


def test_a_limit_without_a_test_is_caught() -> None:
    table = "| limit | value | test |\n| --- | --- | --- |\n"
    good = "`tests/test_docs.py::test_planted_places_are_caught`"
    page = f"{table}| a | 1 | {good} |\n| b | 1 | - |\n| c | 1 | `tests/test_docs.py::test_no` |\n"
    assert limits_without_a_test(page) == ["b", "c"]


def test_planted_places_are_caught() -> None:
    planted = "`src/sppnet/none.py` `tests/test_docs.py::test_nothing` `tests/none.py::test_a`"
    assert len(missing_places(planted)) == 3
    assert missing_places("`tests/test_docs.py::test_planted_places_are_caught` `tests`") == []


def test_every_row_of_the_paper_map_has_file_and_test_or_says_not_yet() -> None:
    page = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    mapped = [row for row in rows(page) if len(row) == 4 and row[2] != "file"]
    assert len(mapped) > 20
    for row in mapped:
        both = [bool(_PLACE.search(cell)) for cell in row[2:]]
        assert all(both) or row[2:] == ["not yet", "not yet"], row


def test_every_table_of_the_paper_is_mapped() -> None:
    page = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    tables = page.split("## Tables")[1].split("##")[0]
    numbers = {int(n) for row in rows(tables) for n in re.findall(r"\d+", row[0])}
    assert numbers | {1} == set(range(1, 14))  # table 1 is among the sections


def test_limits_of_the_threat_model_are_those_in_force() -> None:
    from sppnet.app.info import collect_facts

    page = (ROOT / "docs" / "threat_model.md").read_text(encoding="utf-8")
    limits = collect_facts()["limits"]
    written = sorted(int(n.replace(",", "")) for n in re.findall(r"\| ([\d,]{7,}) \|", page))
    assert written == sorted(limits.values())
