"""Settings files and flags fill one class; every field has its flag; anything wrong is named."""

import dataclasses
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sppnet.app import settings
from sppnet.app.main import load_command, main
from sppnet.config.classification import FitConfig, TrainConfig
from sppnet.config.detection import DetectionConfig, InferenceConfig
from sppnet.config.fields import Each, OneOf, Within
from sppnet.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Baking:
    """How to bake."""

    degrees: int = 180
    """Heat of the oven."""
    minutes: float = 25.0
    """Time in the oven,
    measured with a clock."""
    spices: tuple[str, ...] = ()
    vegan: bool = False
    """No eggs."""
    tin: Path | None = None
    _note = "not a field"

    def __post_init__(self) -> None:
        if self.degrees > 300:
            raise ValueError(f"degrees must be at most 300, got {self.degrees}")


def write(folder: Path, text: str) -> Path:
    path = folder / "bake.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, 'degrees = 200\nminutes = 30\nspices = ["clove"]\ntin = "round"\n')
    loaded = settings.load_settings(Baking, path, {"degrees": 220, "minutes": None})
    assert loaded == Baking(220, 30.0, ("clove",), False, Path("round"))
    assert type(loaded.minutes) is float


WRONG = [
    (
        "degres = 1",
        "unknown key 'degres'; legal keys are degrees, minutes, spices, vegan, tin",
    ),
    ("degrees = 1.5", "degrees must be a whole number, got 1.5"),
    ("degrees = true", "degrees must be a whole number, got True"),
    ("minutes = 'long'", "minutes must be a number, got 'long'"),
    ("spices = 'clove'", "spices must be a list, got 'clove'"),
    ("spices = [1]", "spices must be text, got [1]"),
    ("tin = 3", "tin must be a path, got 3"),
    ("vegan = 1", "vegan must be true or false, got 1"),
    ("degrees = 301", "degrees must be at most 300, got 301"),
    ("[oven]\nx = 1", "unknown key 'oven'"),
    ("degrees = ", "not TOML"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_wrong_file_is_named_with_the_key(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        settings.load_settings(Baking, path, {})
    assert str(caught.value).startswith(f"'{path}': {message}")


def test_missing_binary_and_large_files_are_usage_errors(tmp_path: Path) -> None:
    binary, large = tmp_path / "binary", tmp_path / "large"
    binary.write_bytes(b"\xff\xfe\x00")
    large.write_bytes(b" " * (settings.MAX_BYTES + 1))
    for path in (tmp_path / "missing", tmp_path, binary, large):
        with pytest.raises(UsageError, match=path.name):
            settings.load_settings(Baking, path, {})


def test_sentences_under_the_fields_are_read() -> None:
    assert settings.field_sentences(Baking) == {
        "degrees": "Heat of the oven.",
        "minutes": "Time in the oven, measured with a clock.",
        "vegan": "No eggs.",
    }


CONFIGURED = {
    ("detect", "train"): DetectionConfig,
    ("classify", "fit"): FitConfig,
    ("classify", "train"): TrainConfig,
}
CHANGED = {("detect", "val"): InferenceConfig, ("detect", "predict"): InferenceConfig}
# fields of testing that no flag changes, and why
REASONS = {
    "score_threshold": "predict's flag of that name is about what is reported",
}
FIELDS = [(words, each) for words in CONFIGURED for each in settings.settings_of(CONFIGURED[words])]


def _flags(words: tuple[str, ...]) -> dict[str, Any]:
    """Options of a command by the name of their parameter."""
    command: Any = load_command(words[0]).commands[words[1]]
    return {parameter.name: parameter for parameter in command.params}


def _name(value: Any) -> str:
    return "-".join(value) if isinstance(value, tuple) else value.name


@pytest.mark.parametrize(("words", "setting"), FIELDS, ids=_name)
def test_every_field_has_a_flag_with_its_sentence_and_its_default(
    words: tuple[str, ...], setting: settings.Setting
) -> None:
    flag = _flags(words)[setting.name]
    long = f"--{setting.name.replace('_', '-')}"
    assert flag.opts == [long]
    assert flag.secondary_opts == ([f"--no-{long[2:]}"] if setting.hint is bool else [])
    assert len(setting.sentence.split()) >= 3
    assert flag.help == setting.sentence
    assert flag.show_default is True
    assert (
        setting.read(flag.default) == setting.default == getattr(CONFIGURED[words](), setting.name)
    )
    assert flag.rich_help_panel == setting.group


@pytest.mark.parametrize("words", CHANGED, ids="-".join)
def test_constants_of_testing_have_flags_or_a_reason(words: tuple[str, ...]) -> None:
    flags, kind = _flags(words), CHANGED[words]
    for setting in settings.settings_of(kind):
        if setting.name in REASONS:
            assert setting.name not in flags or flags[setting.name].help != setting.sentence
        else:
            assert flags[setting.name].help == setting.sentence
            assert flags[setting.name].default is None


def test_legal_values_stand_in_the_help() -> None:
    shown = {each.name: each.shown_values() for _, each in FIELDS}
    assert shown["tune"] == "none|head|network"
    assert shown["tune_updates"] == "N [x>=1]"
    assert shown["box_overlap"] == "X [0<x<1]"
    assert shown["seed"] == "N [0<=x<=4294967295]"
    assert shown["trunk_lr"] == "X"
    assert [name for name, values in shown.items() if values == "TEXT"] == []


def _bad_values(setting: settings.Setting) -> Iterator[tuple[str, str]]:
    """Illegal values of a field: as a flag and as TOML."""
    rule = setting.rule
    if isinstance(rule, OneOf):
        yield "nonsense", '"nonsense"'
    if isinstance(rule, Each):
        low = int(rule.rule.low) - 1
        yield (f"{max(low, 0)},-1", "[-1]") if low < 0 else (f"{low},{low}", f"[{low}, {low}]")
    if isinstance(rule, Within):
        bounds = (rule.low - 1, rule.high + 1)
        numbers = [each for each in bounds if abs(each) < float("inf")]
        if setting.hint is int:
            yield from ((str(int(each)), str(int(each))) for each in numbers)
        else:
            words = [*map(repr, map(float, numbers)), "nan", "inf", "-inf"]
            yield from zip(words, words, strict=True)


BAD = [(*field, *bad) for field in FIELDS for bad in _bad_values(field[1])]


@pytest.mark.parametrize(("words", "setting", "typed", "toml"), BAD)
def test_a_bad_value_is_the_same_line_from_flag_file_and_python(
    words: tuple[str, ...],
    setting: settings.Setting,
    typed: str,
    toml: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [*words, "nowhere", "--out", str(tmp_path / "run")]
    assert main([*command, f"--{setting.name.replace('_', '-')}={typed}"]) == 2
    (by_flag,) = capsys.readouterr().err.splitlines()
    path = write(tmp_path, f"{setting.name} = {toml}\n")
    assert main([*command, "--config", str(path)]) == 2
    (by_file,) = capsys.readouterr().err.splitlines()
    value = tomllib.loads(f"x = {toml}")["x"]
    value = tuple(value) if isinstance(value, list) else value
    with pytest.raises(ValueError, match=f"^{setting.name} must be ") as caught:
        CONFIGURED[words](**{setting.name: value})
    text = f"{caught.value} (E_USAGE)"
    assert by_file == f"sppnet: error: '{path}': {text}"
    if "-1" not in typed or not isinstance(setting.rule, Each):  # a list of a flag has no signs
        assert by_flag == f"sppnet: error: {text}"
    assert not (tmp_path / "run").exists()


def test_a_file_is_not_blamed_for_a_flag(tmp_path: Path) -> None:
    path = write(tmp_path, 'tune = "head"\n')
    with pytest.raises(UsageError, match=r"^tune_rate must be above 0, got 0"):
        settings.load_settings(DetectionConfig, path, {"tune_rate": 0.0})
    path = write(tmp_path, "tune_rate = 0\n")
    settings.load_settings(DetectionConfig, path, {"tune_rate": 0.1})


def test_flags_win_and_what_is_not_given_leaves_the_file_alone(tmp_path: Path) -> None:
    app, filled = typer.Typer(), []

    @app.command()
    @settings.with_settings(DetectionConfig)
    def command(settings: DetectionConfig) -> None:
        filled.append(settings)

    path = write(tmp_path, "anchors = false\nwidths = [8, 9]\nbox_agnostic = 'on'\n")
    flags = ["--box-agnostic", "auto", "--tune-rate", "0.5", "--imgsz", "300,400", "--ranks", "2,0"]
    app(["--config", str(path), *flags], standalone_mode=False)
    wanted = DetectionConfig(
        anchors=False, widths=(8, 9), tune_rate=0.5, imgsz=(300, 400), ranks=(2, 0)
    )
    assert filled == [wanted]
    app(["--anchors", "--config", str(path), "--levels", "1,2"], standalone_mode=False)
    assert filled[1] == DetectionConfig(levels=(1, 2), widths=(8, 9), box_agnostic="on")


def test_overrides_hold_what_was_given_and_nothing_else() -> None:
    app, found = typer.Typer(), []

    @app.command()
    @settings.with_overrides(InferenceConfig, "changed")
    def command(changed: dict[str, object]) -> None:
        found.append(changed)

    for words in ([], ["--no-flip", "--nms", "hard", "--max-proposals", "5"]):
        app(words, standalone_mode=False)
    assert found == [{}, {"flip": False, "nms": "hard", "max_proposals": 5}]
    with pytest.raises(UsageError, match=r"^nms_threshold must be at least 0 and at most 1, got 2"):
        app(["--nms-threshold", "2"], standalone_mode=False)


@pytest.mark.parametrize("text", ["x", "1,x", "-1", "1.5", "1,,x", "9" * 10, "1 2"])
def test_lists_that_cannot_be_read_are_refused(text: str, tmp_path: Path, capsys) -> None:
    words = ["detect", "train", "nowhere", "--out", str(tmp_path / "run"), f"--levels={text}"]
    assert main(words) == 2
    rule = "levels must be whole numbers with commas between them"
    assert capsys.readouterr().err == f"sppnet: error: {rule}, got {text!r} (E_USAGE)\n"


def test_a_number_too_large_for_its_type_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, f"minutes = {10**400}\n")
    with pytest.raises(UsageError, match="minutes must be a number"):
        settings.load_settings(Baking, path, {})
