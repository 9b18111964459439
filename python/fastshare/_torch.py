"""torch.nn.Module with shared parameters. torch is imported when something here is called."""
import os

from fastshare._lib import ENOENT, Error
from fastshare._model import WAIT_S, connect

# safetensors' name: (torch's name, what it is handed over as). Types that DLPack readers of some versions
# of torch do not know go as integers of the same size and are viewed as what they are afterwards.
TYPES = {"BOOL": ("bool", "U8"), "U8": ("uint8", "U8"), "I8": ("int8", "I8"),
         "F8_E5M2": ("float8_e5m2", "U8"), "F8_E4M3": ("float8_e4m3fn", "U8"), "I16": ("int16", "I16"),
         "U16": ("uint16", "I16"), "F16": ("float16", "F16"), "BF16": ("bfloat16", "BF16"),
         "I32": ("int32", "I32"), "U32": ("uint32", "I32"), "F32": ("float32", "F32"),
         "C64": ("complex64", "C64"), "F64": ("float64", "F64"), "I64": ("int64", "I64"),
         "U64": ("uint64", "I64")}


def _torch():
    import torch
    import torch.utils.dlpack
    return torch


def as_torch(tensor):
    """A fastshare.Tensor as a torch.Tensor over the same memory, which it keeps. Not to be written to."""
    torch = _torch()
    name, handed = TYPES[tensor.dtype]
    dtype = getattr(torch, name)
    out = torch.utils.dlpack.from_dlpack(tensor.capsule(handed))
    return out if out.dtype == dtype else out.view(dtype)


def _name_of(dtype):
    short = str(dtype).rpartition(".")[2]
    for name, (theirs, _) in TYPES.items():
        if theirs == short:
            return name
    raise TypeError(f"tensors of {dtype} cannot be shared")


def _entries(module):
    """(name in state_dict, the part that has it, its attribute) of parameters and of persistent buffers."""
    wanted = set(module.state_dict().keys())
    for prefix, part in module.named_modules(remove_duplicate=False):
        for table in (part._parameters, part._buffers):
            for key, value in table.items():
                name = f"{prefix}.{key}" if prefix else key
                if value is not None and name in wanted:
                    yield name, part, key


def _sources(module):
    """What Store.put() takes, and the tensors that have to stay until it is done. Of tensors that are tied
    the first is stored."""
    torch, out, keep, seen = _torch(), {}, [], set()
    for name, part, key in _entries(module):
        value = getattr(part, key)
        if id(value) in seen:
            continue
        seen.add(id(value))
        value = value.detach().contiguous()
        if value.is_meta:
            raise ValueError(f"{name} has no contents: the module was made on the meta device")
        keep.append(value)
        out[name] = (_name_of(value.dtype), tuple(value.shape), value.numel() * value.element_size(),
                     value.data_ptr())
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return out, keep


def _replacement(old, tensor, name, strict):
    """A parameter over the shared memory, or a copy for a buffer, since modules write to these."""
    torch = _torch()
    if tuple(tensor.shape) != tuple(old.shape):
        raise ValueError(f"{name} is {list(tensor.shape)} in the store and {list(old.shape)} here")
    new = as_torch(tensor)
    if strict and new.dtype != old.dtype:
        raise ValueError(f"{name} is {new.dtype} in the store and {old.dtype} here")
    return torch.nn.Parameter(new, requires_grad=False) if isinstance(old, torch.nn.Parameter) else new.clone()


def _adopt(module, model, strict):
    """Puts the tensors of |model| in the place of the module's, all or none; returns the places. Of the
    names of tied tensors it is enough that one is there."""
    torch, new = _torch(), {}
    entries = list(_entries(module))
    for name, part, key in entries:
        old = getattr(part, key)
        if name in model and id(old) not in new:
            new[id(old)] = _replacement(old, model[name], name, strict)
    missing = [name for name, part, key in entries if id(getattr(part, key)) not in new]
    extra = sorted(set(model) - {name for name, _, _ in entries})
    if strict and (missing or extra):
        raise KeyError(f"missing in the store: {missing or 'none'}; not in the module: {extra or 'none'}")
    # A part that the module has under several names is one place.
    places = list({(id(part), key): (part, key) for _, part, key in entries
                   if id(getattr(part, key)) in new}.values())
    for part, key in places:
        # Not into the part's tables: recurrent parts keep a list of their weights beside them.
        setattr(part, key, new[id(getattr(part, key))])
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the module had there is of no use to anybody else
    return places


class Shared:
    """A module whose parameters lie in shared memory. As a context manager: until the end of the block,
    after which the module has its parameters in host memory."""

    def __init__(self, module, model, places):
        self.module = module
        self.model = model
        self._places = places

    def __enter__(self):
        return self.module

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Gives the memory back when nothing else uses it."""
        torch, done = _torch(), {}
        for part, key in self._places:
            now = getattr(part, key)
            if id(now) not in done:
                own = now.detach().clone().cpu()
                done[id(now)] = (now, torch.nn.Parameter(own, requires_grad=False)
                                 if isinstance(now, torch.nn.Parameter) else own)
            setattr(part, key, done[id(now)][1])
        self._places, self.model = [], None


def share(module, name=None, version=None, *, store=None, shared=False, wait_s=WAIT_S):
    """Stores the module's weights, or takes those that are there with the same contents. |name|: default
    $FAST_MODEL, else the name of its class. Without a store it has a copy of its own on the device."""
    store = store or connect(private=True)
    sources, keep = _sources(module)
    name = name or os.environ.get("FAST_MODEL") or type(module).__name__
    model = store.put(sources, name, version, shared=shared, wait_s=wait_s)
    del keep
    return Shared(module, model, _adopt(module, model, True))


def load(module, name, path=None, version=None, *, store=None, strict=True, wait_s=WAIT_S):
    """Gives |module| the weights of model |name|: those in the store, else those of the safetensors file
    |path|, else, for the first one that comes, its own. Names are those of its state_dict. |strict| False: names
    may be missing on either side, and types may differ, which then are those of the store. A module made on
    the meta device will do unless its own weights are needed."""
    store = store or connect(private=True)
    if path is not None:
        model = store.load(path, name, version, wait_s=wait_s)
    else:
        try:
            model = store.get(name, version, wait_s)
        except Error as e:
            if e.errno != -ENOENT and store.via:
                raise
            sources, keep = _sources(module)
            model = store.put(sources, name, version, wait_s=wait_s)
            del keep
    return Shared(module, model, _adopt(module, model, strict))
