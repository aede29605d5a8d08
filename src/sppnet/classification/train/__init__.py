"""Trains trunk and head together, at one size or at many.

Start with ``trainer.py``.
"""
