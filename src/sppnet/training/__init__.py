"""What classification and detection share when they train.

Start with ``trainer.py``: the one loop, and the small :class:`Task` that says what is learnt. It
uses ``optimizers.py`` (rates of the parts of a network, how they fall, one step),
``checkpoints.py`` (states that a run goes on from, seeds, log.csv, log.jsonl, TensorBoard) and
``distributed.py`` (several processes).
"""
