"""A DLPack capsule of memory that somebody else keeps: dlpack.h, version 0.8, which every reader takes."""
import ctypes

KDL_CUDA = 2
# (code, bits) by the names of safetensors. Codes: 0 int, 1 uint, 2 float, 4 bfloat, 5 complex, 6 bool,
# 10 and 12 float8 e4m3fn and e5m2.
DTYPES = {"BOOL": (6, 8), "U8": (1, 8), "I8": (0, 8), "F8_E5M2": (12, 8), "F8_E4M3": (10, 8), "I16": (0, 16),
          "U16": (1, 16), "F16": (2, 16), "BF16": (4, 16), "I32": (0, 32), "U32": (1, 32), "F32": (2, 32),
          "C64": (5, 64), "F64": (2, 64), "I64": (0, 64), "U64": (1, 64)}
NAME, USED = b"dltensor", b"used_dltensor"


class Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class DLTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device", Device), ("ndim", ctypes.c_int32),
                ("dtype", DataType), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


class Managed(ctypes.Structure):
    pass


DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(Managed))
DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
Managed._fields_ = [("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", DELETER)]

_api = ctypes.pythonapi
_new = _api.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, DESTRUCTOR]
_is_valid = _api.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]
_pointer = _api.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]

# What readers hold, by the address of the structure: it, its shape and strides, and who keeps the memory.
_held = {}


@DELETER
def _delete(managed):
    _held.pop(ctypes.addressof(managed.contents), None)


@DESTRUCTOR
def _destroy(capsule):
    if _is_valid(capsule, NAME):  # nobody has taken it
        _held.pop(_pointer(capsule, NAME), None)


def capsule(ptr, shape, dtype, device, owner):
    """|owner| is kept until the reader is done; |device| is (type, id)."""
    n = len(shape)
    strides, step = [0] * n, 1
    for i in reversed(range(n)):
        strides[i] = step
        step *= shape[i]
    c_shape, c_strides = (ctypes.c_int64 * max(n, 1))(*shape), (ctypes.c_int64 * max(n, 1))(*strides)
    code, bits = DTYPES[dtype]
    m = Managed(DLTensor(ptr, Device(*device), n, DataType(code, bits, 1), c_shape, c_strides, 0), None,
                _delete)
    address = ctypes.addressof(m)
    _held[address] = (m, c_shape, c_strides, owner)
    return _new(address, NAME, _destroy)


def held():
    """How many capsules or tensors made of them are alive."""
    return len(_held)
