"""What is learnt from the features of regions: classifiers and box regression.

Where to start reading, in this order:

- ``classifiers.py``: what a detector asks of a classifier, and the classifiers.
- ``svm_trainer.py``: positives, then hard negatives, then a classifier.
- ``hard_negatives.py``: which negatives are kept; ``dual_svm.py``: the linear SVMs themselves,
  by ``example_blocks.py``: a block of rows and one visit of it.
- ``kernel_svm.py``: the kernel classifier and its training.
- ``region_head.py``: fc6 and fc7, and the features that they give instead of the pooled ones.
- ``box_regression.py``: what a detector asks of a box regressor, ridge regression, the cascade;
  ``box_sums.py``: the same kept as sums that images come to and go from.
"""
