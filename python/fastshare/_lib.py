"""libfast-store.so (fast_store.h) by ctypes."""
import ctypes
import functools
import os

U32, U64, SIZE, PTR, TEXT = (ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p,
                             ctypes.c_char_p)
UINT, INT, OUT = ctypes.c_uint, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)

SHARED, PINNED, PRIVATE = 1, 2, 4  # flags of loading
ENOENT, EPEER = -2, -10
POINTER_DEVICE_ORDINAL = 9         # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL


class TensorInfo(ctypes.Structure):
    """struct fast_store_tensor"""
    _fields_ = [("name", TEXT), ("dtype", TEXT), ("ndim", U32), ("shape", ctypes.POINTER(U64)),
                ("bytes", U64), ("offset", U64), ("device", U64), ("hash", U64)]


class Source(ctypes.Structure):
    """struct fast_store_source"""
    _fields_ = [("name", TEXT), ("dtype", TEXT), ("ndim", U32), ("shape", ctypes.POINTER(U64)),
                ("bytes", U64), ("data", PTR)]


PROTOTYPES = {
    "fast_store_connect": (INT, TEXT, TEXT, OUT, TEXT, SIZE),
    "fast_store_disconnect": (None, PTR),
    "fast_store_via": (TEXT, PTR),
    "fast_store_load_file": (INT, PTR, TEXT, TEXT, TEXT, UINT, UINT, OUT, TEXT, SIZE),
    "fast_store_get": (INT, PTR, TEXT, TEXT, UINT, OUT, TEXT, SIZE),
    "fast_store_put": (INT, PTR, TEXT, TEXT, ctypes.POINTER(Source), SIZE, UINT, UINT, OUT, TEXT, SIZE),
    "fast_store_release": (None, PTR),
    "fast_store_model_count": (SIZE, PTR),
    "fast_store_model_tensor": (INT, PTR, SIZE, ctypes.POINTER(TensorInfo)),
    "fast_store_model_bytes": (U64, PTR),
    "fast_store_model_loaded": (INT, PTR),
    "fast_store_model_is_shared": (INT, PTR),
    "fast_store_model_verify": (INT, PTR, TEXT, SIZE),
    "fast_store_model_known": (INT, PTR, TEXT, SIZE),
}


class Error(OSError):
    """What the store or the driver refused; |errno| is a FAST_STORE_E code without its sign."""


@functools.lru_cache(maxsize=None)
def library():
    """The library, loaded once: $FAST_STORE_LIB, else by its name."""
    lib = ctypes.CDLL(os.environ.get("FAST_STORE_LIB") or "libfast-store.so.0")
    for name, (result, *params) in PROTOTYPES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, params
    return lib


def call(name, *args):
    """A function that ends with (msg, msg_size): raises Error with what it says."""
    msg = ctypes.create_string_buffer(256)
    code = getattr(library(), name)(*args, msg, len(msg))
    if code:
        raise Error(-code, msg.value.decode(errors="replace"))


def encode(text):
    return None if text is None else text.encode()


def device_of(ptr):
    """The ordinal of the device that |ptr| is on."""
    ordinal = ctypes.c_int(0)
    cuda = ctypes.CDLL("libcuda.so.1")
    cuda.cuPointerGetAttribute(ctypes.byref(ordinal), POINTER_DEVICE_ORDINAL, U64(ptr))
    return ordinal.value
