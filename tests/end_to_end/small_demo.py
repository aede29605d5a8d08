"""``sppnet demo`` with few and small drawings, as a program, so that it can be killed."""

import sys
from functools import partial
from pathlib import Path

from sppnet.app.demo.job import DemoJob
from sppnet.app.demo.steps import DemoConfig
from sppnet.app.main import main

SMALL = DemoConfig(
    train_scenes=12,
    test_scenes=8,
    train_images=20,
    test_images=5,
    epochs=8,
    short_sides=(128, 224),
    max_proposals=200,
)
COMMAND = [sys.executable, str(Path(__file__)), "demo", "--out", "demo"]
small_job = partial(DemoJob, config=SMALL)

if __name__ == "__main__":
    from sppnet.app.demo import job

    job.DemoJob = small_job  # what the command makes
    sys.exit(main(sys.argv[1:]))
