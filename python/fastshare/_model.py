"""Stores, models and their tensors, without torch."""
import ctypes
import weakref
from collections.abc import Mapping

from fastshare import _dlpack
from fastshare._lib import (EPEER, PINNED, PRIVATE, SHARED, Error, Source, TensorInfo, call, device_of,
                            encode, library)

# __cuda_array_interface__ has no name for bfloat16 and float8: they are shown as integers of that size.
TYPESTRS = {"BOOL": "|b1", "U8": "|u1", "I8": "|i1", "F8_E5M2": "|u1", "F8_E4M3": "|u1", "I16": "<i2",
            "U16": "<u2", "F16": "<f2", "BF16": "<i2", "I32": "<i4", "U32": "<u4", "F32": "<f4",
            "C64": "<c8", "F64": "<f8", "I64": "<i8", "U64": "<u8"}
WAIT_S = 60


class _Handle:
    """A model in this process. Whoever uses its memory holds this; the last one gives it back."""

    def __init__(self, ptr, store):
        self.ptr = ptr
        self.store = store  # the connection has to outlive it
        # Not at exit: the end of the process gives everything back, and torch may still run then.
        weakref.finalize(self, library().fast_store_release, ptr).atexit = False


class Tensor:
    """A tensor in shared memory, to be read only. It keeps the memory for as long as it is there."""

    def __init__(self, handle, info):
        self._handle = handle
        self.name = info.name.decode()
        self.dtype = info.dtype.decode()  # as in safetensors: "BF16"
        self.shape = tuple(info.shape[i] for i in range(info.ndim))
        self.nbytes = info.bytes
        self.offset = info.offset
        self.ptr = info.device
        self.hash = info.hash

    def __repr__(self):
        return f"<fastshare.Tensor {self.name} {self.dtype} {list(self.shape)} at {self.ptr:#x}>"

    @property
    def __cuda_array_interface__(self):
        # The flag for read-only memory must be False, or torch refuses it.
        return {"shape": self.shape, "typestr": TYPESTRS[self.dtype], "data": (self.ptr, False),
                "strides": None, "version": 3}

    def __dlpack_device__(self):
        return _dlpack.KDL_CUDA, device_of(self.ptr)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        # The bytes have been there since before this process had them: there is no stream to wait for.
        del stream, max_version
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("shared weights are exported where they are")
        return self.capsule()

    def capsule(self, dtype=None):
        """A DLPack capsule, of |dtype| instead of its own."""
        return _dlpack.capsule(self.ptr, self.shape, dtype or self.dtype, self.__dlpack_device__(), self)


class Model(Mapping):
    """The tensors of a model by their names, in the order of the file."""

    def __init__(self, handle):
        lib = library()
        self._handle = handle
        self._tensors = {}
        for i in range(lib.fast_store_model_count(handle.ptr)):
            info = TensorInfo()
            if lib.fast_store_model_tensor(handle.ptr, i, ctypes.byref(info)) == 0:
                self._tensors[info.name.decode()] = Tensor(handle, info)

    def __getitem__(self, name):
        return self._tensors[name]

    def __iter__(self):
        return iter(self._tensors)

    def __len__(self):
        return len(self._tensors)

    @property
    def nbytes(self):
        return library().fast_store_model_bytes(self._handle.ptr)

    @property
    def loaded(self):
        """Whether this process has loaded it."""
        return bool(library().fast_store_model_loaded(self._handle.ptr))

    @property
    def shared(self):
        """False: it is a copy of one's own."""
        return bool(library().fast_store_model_is_shared(self._handle.ptr))

    def verify(self):
        """Reads it back and compares the hash of every tensor."""
        call("fast_store_model_verify", self._handle.ptr)

    def known(self):
        """Whether the store knows of it: one that was started anew does not."""
        try:
            call("fast_store_model_known", self._handle.ptr)
        except Error:
            return False
        return True


class Store:
    """A connection to a store."""

    def __init__(self, ptr):
        self._ptr = ptr
        if ptr:
            weakref.finalize(self, library().fast_store_disconnect, ptr).atexit = False

    @property
    def via(self):
        """How memory is shared: "vmm-read-only", "vmm" or "ipc"; "": there is no store."""
        return library().fast_store_via(self._ptr).decode() if self._ptr else ""

    def _obtain(self, name, *args):
        model = ctypes.c_void_p()
        call(name, self._ptr, *args, ctypes.byref(model))
        return Model(_Handle(model.value, self))

    def get(self, name, version=None, wait_s=WAIT_S):
        """A model that is there, or is being loaded."""
        return self._obtain("fast_store_get", encode(name), encode(version), int(wait_s * 1000))

    def load(self, path, name, version=None, *, shared=False, pinned=False, private=True, wait_s=WAIT_S):
        """A model out of a safetensors file. |shared|: functions of other namespaces may have it;
        |private|: rather a copy of one's own than none."""
        return self._obtain("fast_store_load_file", encode(str(path)), encode(name), encode(version),
                            _flags(shared, pinned, private), int(wait_s * 1000))

    def put(self, tensors, name, version=None, *, shared=False, pinned=False, private=True,
            wait_s=WAIT_S):
        """A model of |tensors|: {name: (dtype, shape, bytes, pointer)}, in host or device memory."""
        sources, keep = (Source * max(1, len(tensors)))(), []
        for i, (key, (dtype, shape, size, ptr)) in enumerate(tensors.items()):
            dims = (ctypes.c_uint64 * max(1, len(shape)))(*shape)
            keep.append(dims)
            sources[i] = Source(key.encode(), dtype.encode(), len(shape), dims, size, ptr)
        return self._obtain("fast_store_put", encode(name), encode(version), sources, len(tensors),
                            _flags(shared, pinned, private), int(wait_s * 1000))


def _flags(shared, pinned, private):
    return (SHARED if shared else 0) | (PINNED if pinned else 0) | (PRIVATE if private else 0)


def connect(socket=None, token=None, *, private=False):
    """The store at |socket|, default $FAST_STORE_SOCKET; |token|: the pass, default $FAST_STORE_PASS.
    |private|: where there is none, one that makes copies of one's own."""
    store = ctypes.c_void_p()
    try:
        call("fast_store_connect", encode(socket), encode(token), ctypes.byref(store))
    except Error as e:
        if not private or e.errno != -EPEER:
            raise
    return Store(store.value)


def get(name, version=None, wait_s=WAIT_S):
    """As Store.get(), from the store of this replica."""
    return connect().get(name, version, wait_s)
