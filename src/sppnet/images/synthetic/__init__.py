"""Drawn data sets: scenes with boxes, and a folder of pictures for each class."""
