"""Labels of three classes, for what is fitted on rows of features."""

import pytest
import torch

from classification.transfer.noisy_classes import NAMES
from sppnet.classification.scoring import Task, class_task


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(3).repeat(12)


@pytest.fixture
def task(labels: torch.Tensor) -> Task:
    return class_task(labels, NAMES)
