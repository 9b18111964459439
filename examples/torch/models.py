"""The models that serve.py serves, with random weights of a fixed seed, so that nothing is downloaded.

Each builder returns (module, inputs): inputs is a tuple of sample tensors on the CPU, the first
dimension of each is the batch. ResNet-50, ResNeXt-101 and ViT-huge are torchvision's, BERT-large is
from transformers; RNN-T and GNMT are LSTM stacks of the sizes that MLPerf's reference models have, with
loops of a fixed length (greedy, no beam), so that every request is the same work and can be captured
as one CUDA graph.
"""
import torch
from torch import nn


def resnet50(batch):
    import torchvision
    return torchvision.models.resnet50(weights=None), (torch.randn(batch, 3, 224, 224),)


def resnext101(batch):
    import torchvision
    return torchvision.models.resnext101_32x8d(weights=None), (torch.randn(batch, 3, 224, 224),)


def vit_huge(batch):
    import torchvision
    return torchvision.models.vit_h_14(weights=None, image_size=224), (torch.randn(batch, 3, 224, 224),)


class Bert(nn.Module):
    """The last hidden state alone, so that the output is one tensor."""
    vocabulary = 30522

    def __init__(self, **sizes):
        super().__init__()
        from transformers import BertConfig, BertModel
        self.bert = BertModel(BertConfig(**sizes), add_pooling_layer=False)

    def forward(self, ids):
        return self.bert(input_ids=ids).last_hidden_state


def bert_large(batch, layers=24, length=384):
    module = Bert(num_hidden_layers=layers, hidden_size=1024, num_attention_heads=16,
                  intermediate_size=4096)
    return module, (torch.randint(0, Bert.vocabulary, (batch, length)),)


class Rnnt(nn.Module):
    """Speech: an encoder of 2 + 3 LSTM layers of 1024 with pairs of frames joined in between, a
    predictor of 2 layers of 320, a joint network of 512, and as many greedy steps as asked for."""

    def __init__(self, hidden=1024, features=240, vocabulary=29, steps=60):
        super().__init__()
        self.steps = steps
        self.before = nn.LSTM(features, hidden, 2, batch_first=True)
        self.after = nn.LSTM(2 * hidden, hidden, 3, batch_first=True)
        self.embed = nn.Embedding(vocabulary, 320)
        self.predict = nn.LSTM(320, 320, 2, batch_first=True)
        self.joint = nn.Sequential(nn.Linear(hidden + 320, 512), nn.ReLU(), nn.Linear(512, vocabulary))

    def forward(self, frames):
        x, _ = self.before(frames)
        batch, time, width = x.shape
        x, _ = self.after(x.reshape(batch, time // 2, 2 * width))
        token = torch.zeros(batch, 1, dtype=torch.long, device=frames.device)
        state, out = None, []
        for step in range(self.steps):
            y, state = self.predict(self.embed(token), state)
            frame = x[:, step * x.shape[1] // self.steps]
            logits = self.joint(torch.cat([frame, y[:, 0]], dim=-1))
            token = logits.argmax(dim=-1, keepdim=True)
            out.append(logits)
        return torch.stack(out, dim=1)


def rnnt(batch, hidden=1024, frames=250, steps=60):
    return Rnnt(hidden=hidden, steps=steps), (torch.randn(batch, frames, 240),)


class Gnmt(nn.Module):
    """Translation: 8 encoder layers of 1024, the first in both directions, 8 decoder layers with
    additive attention over the encoder, residual connections from the third layer on."""

    def __init__(self, hidden=1024, layers=8, vocabulary=32320, steps=50):
        super().__init__()
        self.steps, self.vocabulary = steps, vocabulary
        self.embed = nn.Embedding(vocabulary, hidden)
        self.first = nn.LSTM(hidden, hidden, batch_first=True, bidirectional=True)
        self.second = nn.LSTM(2 * hidden, hidden, batch_first=True)
        self.encoder = nn.ModuleList(nn.LSTM(hidden, hidden, batch_first=True) for _ in range(layers - 2))
        self.attend = nn.LSTM(hidden, hidden, batch_first=True)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key = nn.Linear(hidden, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.decoder = nn.ModuleList(nn.LSTM(2 * hidden, hidden, batch_first=True) for _ in range(layers - 1))
        self.out = nn.Linear(hidden, vocabulary)

    def encode(self, source):
        x, _ = self.first(self.embed(source))
        x, _ = self.second(x)
        for layer in self.encoder:
            y, _ = layer(x)
            x = x + y
        return x

    def step(self, token, memory, keys, states):
        x, states[0] = self.attend(self.embed(token), states[0])
        weights = torch.softmax(self.score(torch.tanh(self.query(x) + keys)), dim=1)
        context = (weights * memory).sum(dim=1, keepdim=True)
        for i, layer in enumerate(self.decoder):
            y, states[i + 1] = layer(torch.cat([x, context], dim=-1), states[i + 1])
            x = x + y if i else y
        return self.out(x)

    def forward(self, source):
        memory = self.encode(source)
        keys = self.key(memory)
        token, states, out = source[:, :1], [None] * (len(self.decoder) + 1), []
        for _ in range(self.steps):
            logits = self.step(token, memory, keys, states)
            token = logits.argmax(dim=-1)
            out.append(token)
        return torch.cat(out, dim=1)


def gnmt(batch, hidden=1024, layers=8, length=50, steps=50, vocabulary=32320):
    module = Gnmt(hidden=hidden, layers=layers, steps=steps, vocabulary=vocabulary)
    return module, (torch.randint(0, vocabulary, (batch, length)),)


MODELS = {"resnet50": resnet50, "resnext101": resnext101, "vit_huge": vit_huge, "bert_large": bert_large,
          "rnnt": rnnt, "gnmt": gnmt}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Model:
    """A model on a device, ready to be called: model(*inputs) returns a tensor on the device. With
    |graphs| the whole inference is recorded once as a CUDA graph and replayed for every request."""

    def __init__(self, name, batch=1, precision="fp16", graphs=False, device=None, **sizes):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.name, self.batch = name, batch
        self.dtype = DTYPES[precision] if self.device.type == "cuda" else torch.float32
        torch.manual_seed(1)
        module, inputs = MODELS[name](batch, **sizes)
        self.module = module.eval().to(self.device, self.dtype)
        if self.device.type == "cuda" and name in ("resnet50", "resnext101"):
            self.module = self.module.to(memory_format=torch.channels_last)
        self.sample = tuple(self.place(x) for x in inputs)
        self.inputs = self.sample # where a graph reads, once there is one
        self.graph, self.given = None, False
        if graphs and self.device.type == "cuda":
            self.capture()

    def place(self, tensor):
        """|tensor| on the device, in the model's precision if it is not a number of a word."""
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    def capture(self):
        self.inputs = tuple(x.clone() for x in self.sample)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(3): # libraries choose their kernels and take their work space now
                self.module(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph):
            self.result = self.module(*self.inputs)
        self.graph = graph

    def __call__(self, *inputs):
        """Without |inputs| of the sample."""
        with torch.inference_mode():
            if self.graph is None:
                return self.module(*(inputs or self.sample))
            if inputs or self.given: # else the sample lies there still
                for mine, given in zip(self.inputs, inputs or self.sample):
                    mine.copy_(given)
            self.given = bool(inputs)
            self.graph.replay()
            return self.result

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def seconds(self, *inputs):
        """The wall time of one inference that is waited for."""
        import time
        start = time.perf_counter()
        self(*inputs)
        self.wait()
        return time.perf_counter() - start
