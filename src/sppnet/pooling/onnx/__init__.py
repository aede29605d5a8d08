"""The pooling as ONNX: its operators as graphs, and files that onnxruntime has checked.

- ``export.py``: writes a module to a file and proves that onnxruntime computes the same. Start
  here; classification and detection hand it their own recipes.
- ``operators.py``: the pooling operators as ONNX graphs, exact at every size of map.
- ``loops.py``: the parts of these graphs whose number of steps depends on the map.

Needs ``sppnet[onnx]``; nothing else imports this folder, except to export.
"""
