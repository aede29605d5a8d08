"""Frozen features of whole images, and linear SVMs on them (section 3.3 of the paper).

Start with ``fit.py``.
"""
