"""What a trunk does to coordinates, worked out from its graph.

- ``cut.py``: traces a model, names its nodes and cuts it off behind the wanted map. Start here.
- ``propagate.py``: carries receptive fields through the graph, a rule for each kind of layer.
- ``receptive_field.py``: their arithmetic. ``Axis`` is what the cells of a map see along one side
  of the image, ``Window`` one convolution or pooling, ``ReceptiveField`` both axes of a map; and
  how maps of several layers are joined. ``tokens.py``: the maps of vision transformers.

A layer without a rule is an error, not a guess: it could move cells unseen.
"""
