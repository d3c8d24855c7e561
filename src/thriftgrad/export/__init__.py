"""Models for other libraries: ONNX files, and weights under PyTorch's names and orientation."""

from thriftgrad.export.onnx import onnx
from thriftgrad.export.torch import (
    load_torch,
    load_torch_state_dict,
    save_torch,
    torch_state_dict,
)

__all__ = ["load_torch", "load_torch_state_dict", "onnx", "save_torch", "torch_state_dict"]
