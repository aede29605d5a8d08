"""What computes the pooling: C++ on a processor, Triton on CUDA, plain torch elsewhere.

- ``dispatch.py``: chooses the kernel for the tensors at hand. Start here.
- ``torch_reference.py``: plain torch, the truth that the others are tested against.
- ``cpu.py``: calls the compiled kernel, whose C++ source is in ``native/``; ``native_library.py``
  finds the library for this processor.
- ``triton_launch.py``: plans and launches the kernels of ``triton_kernels.py`` on CUDA.

All take maps and checked regions as plain tensors; callers use the operators of
``pooling/operators.py``, which know about gradients.
"""
