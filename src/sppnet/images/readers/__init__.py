"""Data sets on disk, one file for each layout.

- ``layouts.py``: finds out what a folder holds, and reads it. Start here.
- ``voc.py``, ``voc_layout.py``: Pascal VOC's annotations, and where a set keeps its parts.
- ``voc_classes.py``: the same sets for classification, several classes to an image.
- ``coco.py``, ``yolo.py``: the other two detection layouts; ``yolo_yaml.py``: what the YAML file of
  the latter says.
- ``labels.py``: the store of labels that ``LabelSession`` keeps beside the photos.
- ``class_folders.py``: a folder of images per class.

Every reader returns a data set of ``images/dataset.py``, and a finding for whatever it left out;
nothing on disk is changed, and no path in a file leads out of the set.
"""
