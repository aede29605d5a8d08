"""Data sets on disk, one file for each layout.

Start with ``layouts.py``, which finds out what a folder holds; every reader returns a data set of
``images/dataset.py`` and a finding for whatever it left out.
"""
