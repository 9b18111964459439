"""Replicas of a model share one copy of its weights in GPU memory.

    import fastshare

    fastshare.load(module, "resnet50", "resnet50.safetensors")   # a torch.nn.Module, in place

    with fastshare.share(module):          # its own weights: stored by the first, taken by the others
        serve(module)

    model = fastshare.get("resnet50")      # without torch: a mapping of names to tensors
    model["conv1.weight"].ptr              # a device pointer; also DLPack and __cuda_array_interface__

A replica of a function with the annotation fastgshare/model finds its store by itself. Shared memory is
read-only: parameters that are loaded from it take no gradients, and buffers, which modules write to, are
copies. Nothing here is compiled, and torch is needed only for what says so.
"""
from fastshare._model import Error, Model, Store, Tensor, connect, get
from fastshare._torch import Shared, as_torch, load, share

__all__ = ["Error", "Model", "Shared", "Store", "Tensor", "as_torch", "connect", "get", "load", "share"]
