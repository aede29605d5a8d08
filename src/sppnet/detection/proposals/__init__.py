"""Where things may be: regions proposed from pixels, from files, and from learnt anchors.

Start with ``propose.py``.
"""
