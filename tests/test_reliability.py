"""The bar of ``benchmarks/reliability``: every id is there, the table is that of the figures."""

import json
import mmap
import re
from pathlib import Path

import arm
import bars
import inputs
import matrix
import mutants
import mutations
import numpy as np
import pytest
import run
import supply

ROOT = Path(__file__).parents[1]
COUNTS = {"A": 12, "B": 4, "C": 13, "D": 13, "E": 16, "F": 15}


def test_every_id_has_a_line() -> None:
    wanted = [f"{letter}{n}" for letter, count in COUNTS.items() for n in range(1, count + 1)]
    assert [bar.id for bar in bars.BARS] == wanted


def test_table_of_the_page_is_that_of_the_figures() -> None:
    figures = json.loads(run.FIGURES.read_text())
    text = run.PAGE.read_text(encoding="utf-8")
    assert run.page_with(text, figures) == text


def test_files_in_the_commands_exist() -> None:
    places = {
        place for bar in bars.BARS for place in re.findall(r"(?:tests|benchmarks)/\S+", bar.command)
    }
    assert len(places) > 30
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_what_nothing_shows_is_not_called_met() -> None:
    for bar in bars.BARS:
        assert bar.command or bar.left, bar.id
        assert run.verdict_of(bar, {"well": False}) in (bars.NOT_MET, bars.NOT_MEASURED)
        if bar.command:
            assert run.verdict_of(bar, None) == bars.NOT_MEASURED


@pytest.mark.parametrize(
    ("said", "figure"),
    [
        ("...\n3 passed, 2 deselected in 4.21s\n", "3 passed (tests)"),
        ("== 1 failed, 2 passed in 65.0s (0:01:05) ==\n", "1 failed, 2 passed (tests)"),
        ('text\n{\n "files": 12,\n "wrong": 0,\n "counts": {}\n}\n', "files: 12; wrong: 0"),
        ("TOTAL    100   3   40   2    96%\n", "96% of lines and branches"),
    ],
)
def test_figures_are_read_from_what_commands_say(said: str, figure: str) -> None:
    assert run.figure_of(said) == figure


def test_old_packages_are_seen() -> None:
    assert supply.below(supply.FLOORS, {"pillow": "13.0.0"}) == []
    assert supply.below(supply.FLOORS, {"pillow": "12.2.0"})[0].startswith("pillow 12.2.0 < 13")


CHANGED = '''
def hold(low, high, value, *, open_end=False):
    """Text with 7 and < is left alone."""
    if not value:
        raise ValueError(f"nothing {1 + 1}")
    inside = low <= value < high and value != -1
    for each in zip(low, high, strict=True):
        note(each + 2)
    return inside / "name"
'''


def test_every_kind_of_change_is_made_and_texts_are_left_alone() -> None:
    found = [each.name.removeprefix("hold: ") for each in mutations.mutations(CHANGED)]
    assert found == [
        "False -> True",
        "not value -> (not (not value))",
        "not value -> (value)",
        'raise ValueError(f"nothing {1 + 1}") -> pass',
        "low <= value < high and value != -1 -> (low <= value < high or value != -1)",
        "low <= value < high -> (low < value < high)",
        "low <= value < high -> (low <= value <= high)",
        "value != -1 -> (value == -1)",
        "-1 -> (1)",
        "1 -> 2",
        "note(each + 2) -> pass",
        "each + 2 -> (each - 2)",
        "2 -> 3",
        'return inside / "name" -> return None',
    ]


def test_what_is_read_while_it_is_imported_is_changed_in_the_file() -> None:
    source = "big = 1\ndef f():\n    return 2\n@script(op)\ndef g():\n    return 3\n"
    source += "class A:\n    b = 4\n"
    found = {each.old: each.imported for each in mutations.mutations(source) if each.old.isdigit()}
    assert found == {"1": True, "2": False, "3": True, "4": True}
    seen = mutants.Seen(seconds={"a": 1.0, "b": 2.0}, lines={"near.py": {2: ["a"]}})
    changed = [each for each in mutations.mutations(source) if each.old == "3"]
    assert [seen.stages(file, changed[0])[0] for file in ("near.py", "far.py")] == [
        ["a"],
        ["a", "b"],
    ]


def test_changed_source_is_the_source_with_one_change() -> None:
    source = 'name = "größer"; big = 3 > 2  # so\nnext = 1\n'
    texts = [mutations.mutated(source, each) for each in mutations.mutations(source)]
    assert texts[0] == source.replace("3 > 2", "(3 >= 2)")
    assert texts[-1] == source.replace("= 1", "= 2")
    for text in texts:
        compile(text, "changed", "exec")


def test_changes_that_make_no_difference_exist_and_have_a_reason() -> None:
    for file, named in mutants.equivalents().items():
        source = (ROOT / "src" / "sppnet" / file).read_text(encoding="utf-8")
        known = {each.name for each in mutations.mutations(source)}
        assert named.keys() - known == set(), file
        assert all(len(reason) > 20 for reason in named.values()), file


JUDGED = {
    "half: return x / 2 if x > 0 else 0 -> return None": "killed",
    "half: x / 2 -> (x * 2)": "killed",
    "half: 2 -> 3": "killed",
    "half: x > 0 -> (not (x > 0))": "killed",
    "half: x > 0 -> (x >= 0)": "survived",
    "half: 0 -> 1": "survived",
}
TWO = ("half: x / 2 -> (x * 2)", "half: x > 0 -> (x >= 0)")  # each takes a process


@pytest.mark.parametrize(
    "chosen", [TWO, pytest.param(tuple(JUDGED), marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_changes_are_killed_or_survive_and_the_file_is_as_before(
    tmp_path, monkeypatch, chosen
) -> None:
    monkeypatch.chdir(tmp_path)
    package, test = tmp_path / "halves.py", tmp_path / "test_halves.py"
    package.write_text("def half(x):\n    return x / 2 if x > 0 else 0\n")
    test.write_text(
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path(__file__).parent))\n"
        "from halves import half\n\ndef test_half():\n    assert half(6) == 3\n"
    )
    before = package.read_text()
    seen = mutants.Seen(seconds={"test_halves.py::test_half": 0.1})
    changes = list(mutations.mutations(before))
    assert {each.name for each in changes} == JUDGED.keys()
    states = {
        each.name: mutants.judge_file(
            package, each, [list(seen.seconds)], seen, tmp_path / "said.txt"
        )
        for each in changes
        if each.name in chosen
    }
    assert states == {name: JUDGED[name] for name in chosen}
    assert package.read_text() == before


def test_interval_of_a_share_is_that_of_the_textbook() -> None:
    assert mutants.interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert mutants.interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998


def test_oldest_versions_are_those_of_the_package() -> None:
    listed = (ROOT / "pyproject.toml").read_text()
    for requirement in matrix.oldest():
        name, _, number = requirement.partition("==")
        assert f'"{name}>={number.removesuffix(".0").removesuffix(".0")}' in listed
    assert len(matrix.oldest()) == 4


def test_failures_of_a_report_are_named(tmp_path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="good"/>'
        '<testcase classname="a" name="bad"><failure/></testcase>'
        '<testcase classname="a" name="left"><skipped/></testcase></testsuite></testsuites>'
    )
    assert matrix.outcomes(report) == ({"passed": 1, "failure": 1, "skipped": 1}, ["a::bad"])


def test_other_bits_of_another_processor_are_seen() -> None:
    one = {"a": np.array([0.0, 1.0]), "b": np.array([1], np.int32)}
    assert arm.different(one, {name: values.copy() for name, values in one.items()}) == []
    assert arm.different(one, {**one, "a": np.array([-0.0, 1.0])}) == ["a"]
    assert arm.different(one, {**one, "b": np.array([1], np.int64)}) == ["b"]
    assert arm.different(one, {"a": one["a"]}) == ["b"]
    nothing = np.array([np.nan, 1.0])
    assert arm.different({"a": nothing}, {"a": -nothing * [1, -1]}) == []
    assert arm.different({"a": nothing}, {"a": one["a"]}) == ["a"]


def test_memory_that_is_held_for_a_moment_is_seen() -> None:
    for size in (0, 50):
        before = inputs.start_of_peak()
        with mmap.mmap(-1, max(1, size * 2**20)) as held:  # of which nothing lies free in a heap
            for page in range(0, size * 2**20, mmap.PAGESIZE):
                held[page] = 1
        assert abs(inputs.peak_since() - before - size) < size / 2 + 8
