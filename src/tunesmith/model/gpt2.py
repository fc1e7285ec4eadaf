"""GPT-2 as a function from a flat token stream to hidden states.

Shapes: N tokens in the stream, C channels, H heads, D channels of a head (C = H * D), V vocabulary,
P positions, L layers.

The stream is flat on purpose: documents follow each other without padding, and the attention mask is
the business of the `attend_of` argument (`tunesmith.model.attention` for training, a key-value cache for
generation). The model knows nothing about documents, batches, files or losses.

Parameter names are those of `GPT2LMHeadModel` in Hugging Face transformers, so that import and export are
a matter of transposing (`tunesmith.model.hf_checkpoint`). Parameters stay in the dtype they were loaded in (fp32
master weights while training); `compute_dtype` says in which one the arithmetic is done.

References: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners";
the released model's code, https://github.com/openai/gpt-2/blob/master/src/model.py.
"""

import math
from collections.abc import Callable
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesmith.model.gpt2_config import GPT2Config

INITIAL_STD = 0.02


class Attend(Protocol):
    """Attention of one layer, with its mask."""

    def __call__(self, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, scale: float) -> Tensor:
        """Return the attended values, [N, H, D]; a token may never see a later one of its document."""
        ...


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}
"""By the names that checkpoints use. The first three are one function written in three ways."""


class Linear(nn.Linear):
    """A linear layer that computes in the dtype of its input, whatever dtype its weights are kept in."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # there torch would import its compiler to fill nothing
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Embedding(nn.Embedding):
    """A table of vectors."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class LayerNorm(nn.LayerNorm):
    """Layer normalization that computes in the dtype of its input (statistics are fp32 in every kernel)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class InnerAttention(nn.Module):
    """Attention between queries, keys and values; a module of its own, so that compilation can leave it out."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, attend: Attend, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor) -> Tensor:
        return attend(q_NHD, k_NHD, v_NHD, self.scale)


class Attention(nn.Module):
    """Multi-head self-attention; `attend` decides which token sees which."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.scale = config.attention_scale(layer)
        self.upcast = config.reorder_and_upcast_attn
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)
        self.inner_attention = InnerAttention(self.scale)

    def forward(self, x_NC: Tensor, attend: Attend) -> Tensor:
        n_tokens, n_embd = x_NC.shape
        qkv_NE = self.c_attn(x_NC)  # E = 3 C
        q_NHD, k_NHD, v_NHD = qkv_NE.view(n_tokens, 3, self.n_head, n_embd // self.n_head).unbind(dim=1)
        if self.upcast:
            q_NHD, k_NHD, v_NHD = q_NHD.float(), k_NHD.float(), v_NHD.float()
        y_NHD = self.inner_attention(attend, q_NHD, k_NHD, v_NHD)
        projected_NC: Tensor = self.c_proj(y_NHD.reshape(n_tokens, n_embd).to(qkv_NE.dtype))
        return projected_NC


class MLP(nn.Module):
    """Position-wise feed-forward network with I channels inside."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, config.n_inner)
        self.c_proj = Linear(config.n_inner, config.n_embd)
        self.act = ACTIVATIONS[config.activation_function]

    def forward(self, x_NC: Tensor) -> Tensor:
        projected_NC: Tensor = self.c_proj(self.act(self.c_fc(x_NC)))
        return projected_NC


class Block(nn.Module):
    """Transformer block with a layer norm before attention and before the MLP."""

    def __init__(self, config: GPT2Config, layer: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x_NC: Tensor, attend: Attend) -> Tensor:
        x_NC = x_NC + self.resid_dropout(self.attn(self.ln_1(x_NC), attend))
        out_NC: Tensor = x_NC + self.resid_dropout(self.mlp(self.ln_2(x_NC)))
        return out_NC


class Transformer(nn.Module):
    """Embeddings, blocks and the final norm (`transformer.*` in a checkpoint)."""

    def __init__(self, config: GPT2Config, dropout: float) -> None:
        super().__init__()
        self.wte = Embedding(config.padded_vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(config, layer, dropout) for layer in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(
        self, tokens_N: Tensor, positions_N: Tensor, attend_of: Callable[[int], Attend], dtype: torch.dtype
    ) -> Tensor:
        x_NC = self.drop(self.wte(tokens_N).to(dtype) + self.wpe(positions_N).to(dtype))
        for layer, block in enumerate(self.h):
            x_NC = block(x_NC, attend_of(layer))
        hidden_NC: Tensor = self.ln_f(x_NC)
        return hidden_NC


class GPT2(nn.Module):
    """A GPT-2 language model.

    Args:
        config: its shape and switches.
        dropout: probability on the embeddings and on what attention and MLP add to the residual stream.
            Attention weights themselves are never dropped: no fused attention offers it for packed documents.
    """

    def __init__(self, config: GPT2Config, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.transformer = Transformer(config, dropout)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.padded_vocab_size, bias=False)

    def forward(self, tokens_N: Tensor, positions_N: Tensor, attend_of: Callable[[int], Attend]) -> Tensor:
        """Hidden states after the final norm, [N, C] in `compute_dtype`.

        Args:
            tokens_N: int64 token ids.
            positions_N: int64 position of each token in its own document, below `n_positions`.
            attend_of: attention for each layer; one object for all of them where they do not differ.
        """
        hidden_NC: Tensor = self.transformer(tokens_N, positions_N, attend_of, self.compute_dtype)
        return hidden_NC

    @property
    def blocks(self) -> list[Block]:
        """The transformer blocks, in order."""
        return cast("list[Block]", list(self.transformer.h))

    @property
    def attention_dtype(self) -> torch.dtype:
        """What queries, keys and values come in."""
        return torch.float32 if self.config.reorder_and_upcast_attn else self.compute_dtype

    @property
    def head_VC(self) -> nn.Parameter:
        """The output projection with its padded rows; the embedding table itself where they are tied."""
        head: nn.Parameter = self.transformer.wte.weight if self.config.tie_word_embeddings else self.lm_head.weight  # type: ignore[assignment]
        return head

    def logits(self, hidden_NC: Tensor) -> Tensor:
        """Logits over the true vocabulary, [N, V] in fp32. For few rows: the loss never calls this.

        On a GPU the product of 16-bit numbers is written in fp32: GPT-2's logits lie around -100, where neighbors in
        bf16 are half a nat apart, so that likely tokens would be tied. That product has no backward pass.
        """
        head_VC = self.head_VC.to(hidden_NC.dtype)
        if hidden_NC.is_cuda and hidden_NC.dtype.itemsize == 2 and not torch.is_grad_enabled():
            logits_NV = torch.mm(hidden_NC, head_VC.t(), out_dtype=torch.float32)
        else:
            logits_NV = F.linear(hidden_NC, head_VC)
        return logits_NV[:, : self.config.vocab_size].float()

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Fill the parameters for training from scratch, as GPT-2 was: normal with std 0.02.

        What projects back into the residual stream is scaled by 1/sqrt(2L), so that the stream's variance does
        not grow with depth.
        """
        residual_std = INITIAL_STD / math.sqrt(2 * self.config.n_layer)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                parameter.normal_(0.0, residual_std, generator=generator)
            elif parameter.ndim == 2:
                parameter.normal_(0.0, INITIAL_STD, generator=generator)
            else:
                parameter.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
        self.zero_padded_rows()

    @torch.no_grad()
    def zero_padded_rows(self) -> None:
        """Clear the rows that pad the vocabulary: no token has them, so they must not wander."""
        self.transformer.wte.weight[self.config.vocab_size :].zero_()
        self.head_VC[self.config.vocab_size :].zero_()
