"""Data sets that are drawn, not downloaded: scenes with boxes, or a folder of pictures per class.

- ``scenes.py``: draws and writes whole data sets. Start here.
- ``shapes.py``: the objects, clutter and backgrounds of a scene, with Pillow and numpy.

Every picture depends on a seed and its number alone, so that tests and the demo always see the
same ones.
"""
