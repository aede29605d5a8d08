"""Trains trunk and head together, at one input size or at many (sections 2.3 and 3.1 of the paper).

``config.py`` holds the constants, the sizes that take turns, and what changes about an image from
one epoch to the next, ``loader.py`` decodes images and makes batches of equal size, ``trainer.py``
is the loop. Start reading with ``trainer.py``.
"""
