"""Proposals: boxes that may show an object, from pixels, from files, or from learnt anchors.

Where to start reading, in this order:

- ``propose.py``: one function for all methods that search in the pixels; OpenCV's selective search
  and EdgeBoxes.
- ``graph.py``: our own segmentation and grouping, whose C++ source is in ``native/``; sliding
  windows.
- ``precomputed.py``: files that another program has written.
- ``anchors.py``: a proposer that is learnt from labelled boxes; ``anchor_boxes.py`` has its parts.
"""
