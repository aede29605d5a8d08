"""``sppnet demo``: draw a data set, learn from it, show the result; no download, two minutes.

``job.py`` runs the steps of ``steps.py``, which says how much is drawn and trained, and scores what
they leave; ``figures.py`` holds the figures and draws them, ``report.py`` is their page.
"""

from sppnet.app.options import Debug, Device, DryRun, Fresh, Out, Seed, Threads, command_app

app = command_app("Draw a data set, train on it, show the result; no download, two minutes.")


@app.command()
def demo(
    out: Out,
    seed: Seed = 0,
    device: Device = "auto",
    fresh: Fresh = False,
    dry_run: DryRun = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Draw scenes of many sizes, train a classifier and a detector on them, write OUT/report.html.

    Nothing is downloaded. Killed at any moment, the same command goes on from there.
    """
    from sppnet.app.demo.job import DemoJob  # imported here so that --help stays quick

    job = DemoJob(out, seed, device)
    if dry_run:
        job.explain()
        return
    job.run(fresh=fresh)
