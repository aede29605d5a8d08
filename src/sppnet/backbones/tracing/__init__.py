"""What a trunk does to coordinates, worked out from its graph.

``cut.py`` takes the graph up to a layer, ``propagate.py`` carries receptive fields through it, and
``receptive_field.py`` is their arithmetic along one axis.
"""
