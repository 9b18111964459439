"""Of a fake torch: modules that know the sizes of their parameters and the shapes of their results."""
import os
import time

import torch


def take_time():
    time.sleep(float(os.environ.get("FAKE_TORCH_MS", "0")) / 1000)


class Module:
    own = 0 # parameters of the module itself

    def __setattr__(self, name, value):
        if isinstance(value, Module):
            self.__dict__.setdefault("inner", {})[name] = value
        object.__setattr__(self, name, value)

    def size(self):
        """How many parameters there are."""
        return self.own + sum(m.size() for m in self.__dict__.get("inner", {}).values())

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def eval(self):
        return self

    def to(self, *_, **__):
        return self


class Outer(Module):
    """A whole model: takes $FAKE_TORCH_MS."""

    def __init__(self, make, own):
        self.make, self.own = make, own

    def forward(self, x):
        take_time()
        return self.make(x)


class Linear(Module):
    def __init__(self, inputs, outputs, bias=True):
        self.inputs, self.outputs, self.own = inputs, outputs, inputs * outputs + (outputs if bias else 0)

    def forward(self, x):
        assert x.shape[-1] == self.inputs, (x.shape, self.inputs)
        return x.like("linear", self.outputs, shape=[*x.shape[:-1], self.outputs])


class ReLU(Module):
    def forward(self, x):
        return x.like("relu")


class Embedding(Module):
    def __init__(self, words, width):
        self.width, self.own = width, words * width

    def forward(self, x):
        assert not x.is_floating_point()
        return x.like("embed", shape=[*x.shape, self.width], dtype=torch.float32)


class Sequential(Module):
    def __init__(self, *modules):
        self.all = modules
        for i, m in enumerate(modules):
            setattr(self, f"m{i}", m)

    def forward(self, x):
        for m in self.all:
            x = m(x)
        return x


class ModuleList(Module):
    def __init__(self, modules):
        self.all = list(modules)
        for i, m in enumerate(self.all):
            setattr(self, f"m{i}", m)

    def __iter__(self):
        return iter(self.all)

    def __len__(self):
        return len(self.all)


class LSTM(Module):
    def __init__(self, inputs, hidden, num_layers=1, batch_first=False, bidirectional=False):
        assert batch_first
        self.inputs, self.hidden, self.layers, self.ways = inputs, hidden, num_layers, 2 if bidirectional else 1
        self.own = sum(self.ways * 4 * hidden * ((inputs if i == 0 else self.ways * hidden) + hidden + 2)
                       for i in range(num_layers))

    def forward(self, x, state=None):
        batch, length, width = x.shape
        assert width == self.inputs, (x.shape, self.inputs)
        known = state[0].mark if state else None
        out = x.like("lstm", known, shape=[batch, length, self.ways * self.hidden])
        h = out.like("h", shape=[self.ways * self.layers, batch, self.hidden])
        return out, (h, h.like("c"))
