"""What computes the pooling: C++ on a processor, Triton on CUDA, plain torch elsewhere.

Start with ``dispatch.py``, which chooses; ``torch_reference.py`` is the truth of the others.
"""
