"""Every command shows its help quickly and without torch."""

import os
import subprocess
import sys

import pytest

from sppnet.app.main import COMMANDS, SHARED, load_command

LIMIT = 1.0  # seconds on a slow machine; the aim is 0.5


def all_commands() -> list[list[str]]:
    """Words of every command and of every command of a group."""
    words: list[list[str]] = [[]]
    for name in COMMANDS:
        words.append([name])
        words += [[name, part] for part in getattr(load_command(name), "commands", {})]
    return words


ALL = all_commands()


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_is_quick(words: list[str]) -> None:
    seconds = min(_seconds_of_help(words) for _ in range(2))
    print(f"sppnet {' '.join(words)} --help: {seconds:.2f} s of the processor")
    assert seconds < LIMIT


def _seconds_of_help(words: list[str]) -> float:
    """Let a process show the help; what it took of the processor, whoever else works there."""
    before = os.times()
    result = subprocess.run(
        [sys.executable, "-m", "sppnet", *words, "--help"], capture_output=True, check=False
    )
    after = os.times()
    assert result.returncode == 0, result.stderr
    assert b"Usage:" in result.stdout
    return sum(after[2:4]) - sum(before[2:4])


def test_no_command_imports_heavy_packages_before_it_runs() -> None:
    modules = ", ".join(f"sppnet.app.{SHARED.get(name, (name,))[0]}" for name in COMMANDS)
    heavy = "{'torch', 'torchvision', 'cv2', 'sklearn', 'scipy', 'numpy', 'PIL'}"
    code = f"import sys, sppnet.app.main, {modules}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stdout == "[]\n", result.stderr


PREDICTION = """
import sys
import sppnet.app.classify.predict, sppnet.app.detect.predict
import torch
from sppnet.backbones import build_backbone, restore_backbone
from sppnet.geometry import nms
trunk = build_backbone("efficientnet_lite0", layer="stage5+stage7")
trunk = restore_backbone(trunk.config(), trunk.state_dict()).with_engine("onnxruntime")
with torch.no_grad():
    trunk(torch.rand(1, 3, 64, 64))
kept = nms(torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [5, 5, 9, 9]]), torch.arange(3.0))
print(kept.tolist(), [name for name in ("torchvision", "torch._dynamo") if name in sys.modules])
import torchvision  # finds the library of its operators loaded already
print(torchvision.ops.nms(torch.eye(4)[2:], torch.ones(2), 0.5).tolist())
"""


def test_a_prediction_imports_neither_torchvision_nor_torchs_compiler() -> None:
    # together they take longer than torch itself, before each command's first image
    result = subprocess.run(
        [sys.executable, "-c", PREDICTION], capture_output=True, text=True, check=False
    )
    assert result.stdout == "[2, 1] []\n[0, 1]\n", result.stderr


@pytest.mark.parametrize("words", [w for w in ALL if w], ids=" ".join)
def test_unknown_option_is_one_line_and_code_2(words: list[str], capsys) -> None:
    from sppnet.app.main import main

    assert main([*words, "--nonsense"]) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("sppnet: error: ")
    assert "Traceback" not in shown.err + shown.out


@pytest.mark.parametrize("words", [w for w in ALL if w], ids=" ".join)
def test_every_option_has_a_sentence_of_help(words: list[str]) -> None:
    command = load_command(words[0])
    for part in words[1:]:
        command = command.commands[part]
    assert command.help
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []


def numeric_options() -> list[tuple[list[str], str]]:
    """Words of a command and the name of each of its options that takes numbers."""
    found = []
    for words in ALL[1:]:
        command = load_command(words[0])
        for part in words[1:]:
            command = command.commands[part]
        for parameter in command.params:
            if str(parameter.type_descriptor.annotation) in ("<class 'int'>", "<class 'float'>"):
                found.append((words, parameter.opts[0]))
    return found


BAD_NUMBERS = [
    "",
    "x",
    "nan",
    "inf",
    "-inf",
    "-1e308",
    "1e999",
    "0x10",
    "1,5",
    "--",
    "-999999999999",
]


@pytest.mark.parametrize(("words", "option"), numeric_options())
def test_bad_numbers_are_refused_in_one_line(words: list[str], option: str, capsys) -> None:
    from sppnet.app.main import main

    for value in BAD_NUMBERS:
        assert main([*words, "a", "b", f"{option}={value}"]) == 2, value
        shown = capsys.readouterr().err.splitlines()
        assert len(shown) == 1, shown
        assert shown[0].startswith("sppnet: error: ")
