"""Frozen features of whole images, and linear SVMs on them (section 3.3 of the paper).

``recipe.py`` says which layers and views are pooled, ``features.py`` computes and caches the
features, ``svm.py`` fits the SVMs, ``choice.py`` their cost on held-out training images, ``fit.py``
puts these together for every split of the images; what comes out where an ordinary network cannot
hold it is its ``TransferClassifier``. Start reading with ``fit.py``.
"""
