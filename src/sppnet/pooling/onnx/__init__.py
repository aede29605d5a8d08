"""The pooling as ONNX: its operators as graphs, and files that onnxruntime has checked."""
