"""Cases that need onnxruntime or a GPU: run where these are, else named as not run."""

from dataclasses import replace

import pytest
import torch

from sppnet.app.benchmark import job
from sppnet.app.benchmark.job import compare_on_device, compare_on_gpu
from sppnet.app.benchmark.report import (
    table_rows,
)
from tiny_benchmark import TINY


def test_missing_gpu_is_told_in_file_and_table(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    results = compare_on_gpu(TINY)
    assert [each.reason for each in results.not_run] == ["not run: no GPU"] * 2
    assert [row["case"] for row in results.to_json()["not_run"]] == ["11", "11"]
    assert all("not run: no GPU" in row for row in table_rows(results))


def test_gpu_case_compares_with_both_peers_in_both_types() -> None:
    found = compare_on_device(TINY, torch.device("cpu")).comparisons
    assert [(each.goal.limit, "bfloat16" in each.what) for each in found] == [
        (6, False),
        (0.6, False),
        (6, True),
        (0.6, True),
    ]


def test_exported_classifier_is_compared_at_every_size() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found = job.compare_onnx(replace(TINY, image_sides=(40, 64)))
    assert [each.what.split()[-1] for each in found.comparisons] == ["40x60", "64x96"]
    assert found.not_run == []


def test_missing_onnxruntime_is_told(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (left_out,) = job.compare_onnx(TINY).not_run
    assert "onnxruntime" in left_out.reason
    assert left_out.case == "10"
