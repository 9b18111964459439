"""A fake transformers: see ../torch."""
from torch import nn


class BertConfig:
    def __init__(self, num_hidden_layers, hidden_size, num_attention_heads, intermediate_size):
        assert hidden_size % num_attention_heads == 0
        self.layers, self.hidden, self.inner = num_hidden_layers, hidden_size, intermediate_size


class BertModel(nn.Module):
    """The encoder's layers, by the formula; the embedding of 30522 words and 512 places."""

    def __init__(self, config, add_pooling_layer=True):
        assert not add_pooling_layer
        h, inner = config.hidden, config.inner
        self.hidden = h
        self.own = (30522 + 512 + 2 + 2) * h + config.layers * (4 * (h * h + h) + 2 * h * inner + inner + h + 4 * h)

    def forward(self, input_ids):
        nn.take_time()
        out = input_ids.like("bert", shape=[*input_ids.shape, self.hidden])
        return type("Output", (), {"last_hidden_state": out})
