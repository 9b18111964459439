"""A fake torch: tensors have a shape, a type and a mark instead of numbers, so that examples/torch and the
GPU kit can be tested where there is no PyTorch. Two tensors have the same mark when the same was done to
the same. $FAKE_TORCH_CUDA=1 pretends that there is a GPU, $FAKE_TORCH_MS is how long a module takes, and with
$FAKE_TORCH_BREAKS=1 numbers that come from outside break the GPU."""
import contextlib
import os
import struct
import zlib

__version__ = "0.fake"


class DType:
    def __init__(self, name, floating, size):
        self.name, self.floating, self.size = name, floating, size

    def __repr__(self):
        return f"torch.{self.name}"


float32, float16, bfloat16 = DType("float32", True, 4), DType("float16", True, 2), DType("bfloat16", True, 2)
int64 = long = DType("int64", False, 8)
channels_last = "channels_last"


def mark_of(*parts):
    return zlib.crc32(repr(parts).encode())


def times(shape):
    out = 1
    for n in shape:
        out *= n
    return out


class Tensor:
    outside = False

    def __init__(self, shape, dtype=float32, mark=0):
        self.shape, self.dtype, self.mark = tuple(shape), dtype, mark

    def like(self, *what, shape=None, dtype=None):
        return Tensor(self.shape if shape is None else shape, dtype or self.dtype, mark_of(self.mark, *what))

    def numel(self):
        return times(self.shape)

    def element_size(self):
        return self.dtype.size

    def is_floating_point(self):
        return self.dtype.floating

    @property
    def device(self):
        return device("cuda" if cuda.is_available() else "cpu")

    def to(self, _device=None, dtype=None, **_):
        return Tensor(self.shape, dtype or self.dtype, self.mark) # where it lies does not change it

    def float(self):
        return Tensor(self.shape, float32, self.mark)

    def cpu(self):
        return self

    def clone(self):
        return Tensor(self.shape, self.dtype, self.mark)

    def copy_(self, other):
        assert self.shape == other.shape, (self.shape, other.shape)
        self.mark = other.mark

    def reshape(self, *shape):
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        if -1 in shape:
            shape = [self.numel() // -times(shape) if n == -1 else n for n in shape]
        assert times(shape) == self.numel(), (self.shape, shape)
        return Tensor(shape, self.dtype, self.mark)

    def __getitem__(self, index):
        index, shape, axis = index if isinstance(index, tuple) else (index,), [], 0
        for i in index:
            if isinstance(i, slice):
                shape.append(len(range(*i.indices(self.shape[axis]))))
            else:
                assert -self.shape[axis] <= i < self.shape[axis], (self.shape, index)
            axis += 1
        return self.like("at", index, shape=[*shape, *self.shape[axis:]])

    def wide(self, other):
        """Of the result of an operation by elements, as torch broadcasts."""
        if not isinstance(other, Tensor):
            return self.shape
        a, b = self.shape[::-1], other.shape[::-1]
        out = []
        for i in range(max(len(a), len(b))):
            x, y = a[i] if i < len(a) else 1, b[i] if i < len(b) else 1
            assert x == y or 1 in (x, y), (self.shape, other.shape)
            out.append(max(x, y))
        return out[::-1]

    def __add__(self, other):
        return self.like("+", getattr(other, "mark", other), shape=self.wide(other))

    def __mul__(self, other):
        return self.like("*", getattr(other, "mark", other), shape=self.wide(other))

    def less(self, dim, keepdim):
        dim %= len(self.shape)
        return [*self.shape[:dim], *([1] if keepdim else []), *self.shape[dim + 1:]]

    def sum(self, dim, keepdim=False):
        return self.like("sum", dim, shape=self.less(dim, keepdim))

    def argmax(self, dim, keepdim=False):
        return self.like("argmax", dim, shape=self.less(dim, keepdim), dtype=int64)

    def tolist(self):
        if self.outside and os.environ.get("FAKE_TORCH_BREAKS") == "1":
            raise RuntimeError("CUDA error: fake\nmore of it")
        assert len(self.shape) == 1
        return [float(mark_of(self.mark, i) % 1000) for i in range(self.shape[0])]

    def numpy(self):
        return self

    def tobytes(self):
        return struct.pack("<I", self.mark) + repr(self.shape).encode()


random_state = [0]


def drawn(*shape, dtype=float32):
    random_state[0] += 1
    return Tensor(shape, dtype, mark_of("random", random_state[0]))


def manual_seed(seed):
    random_state[0] = 1000 * seed


def randn(*shape):
    return drawn(*shape)


def randint(_low, _high, shape):
    return drawn(*shape, dtype=int64)


def zeros(*shape, dtype=float32, device=None): # pylint: disable=redefined-outer-name
    del device
    return Tensor(shape, dtype)


def frombuffer(data, dtype):
    if len(data) % dtype.size:
        raise ValueError("buffer size must be a multiple of element size")
    Tensor.outside = True
    return Tensor([len(data) // dtype.size], dtype, mark_of(bytes(data)))


def cat(tensors, dim):
    dim %= len(tensors[0].shape)
    shapes = [t.shape for t in tensors]
    assert len({(*s[:dim], *s[dim + 1:]) for s in shapes}) == 1, shapes
    total = sum(s[dim] for s in shapes)
    return tensors[0].like("cat", [t.mark for t in tensors], shape=[*shapes[0][:dim], total, *shapes[0][dim + 1:]])


def stack(tensors, dim):
    shape = tensors[0].shape
    assert len({t.shape for t in tensors}) == 1
    return tensors[0].like("stack", [t.mark for t in tensors], shape=[*shape[:dim], len(tensors), *shape[dim:]])


def softmax(tensor, dim):
    return tensor.like("softmax", dim)


def tanh(tensor):
    return tensor.like("tanh")


class device: # pylint: disable=invalid-name
    def __init__(self, name):
        self.type = name.split(":")[0]

    def __str__(self):
        return self.type


@contextlib.contextmanager
def inference_mode():
    yield


class cuda: # pylint: disable=invalid-name
    """As the module torch.cuda."""

    @staticmethod
    def is_available():
        return os.environ.get("FAKE_TORCH_CUDA") == "1"

    class Stream:
        def wait_stream(self, other):
            pass

        def synchronize(self):
            pass

    class CUDAGraph:
        def replay(self):
            nn.take_time()

    @staticmethod
    def current_stream():
        return cuda.Stream()

    @staticmethod
    @contextlib.contextmanager
    def stream(_):
        yield

    @staticmethod
    @contextlib.contextmanager
    def graph(_):
        yield

    @staticmethod
    def get_device_properties(_):
        return type("Properties", (), {"name": "fake GPU", "multi_processor_count": 4})

    @staticmethod
    def max_memory_reserved():
        return 100 << 20


from . import nn  # noqa: E402
