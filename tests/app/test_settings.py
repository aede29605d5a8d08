"""Settings files and flags fill one class; anything unknown is named."""

import dataclasses
from pathlib import Path

import pytest

from sppnet.app import settings
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
