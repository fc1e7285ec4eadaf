"""What every reader of another program's checkpoint gives: a model in our names, and what was learned of its origin.

Shapes: V vocabulary, P positions, C channels; matrices are [out, in].
"""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.model.gpt2_config import GPT2Config

BLOCK_PARTS = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")


@dataclass(frozen=True)
class ForeignModel:
    """A checkpoint that another program wrote.

    Attributes:
        kind: what wrote it, in words.
        config: the model's shape, vocabulary as in the file.
        state: its weights under our names, matrices as [out, in]; without a tied head.
        tokenizer: that belongs to it; None where the checkpoint has none.
    """

    kind: str
    config: GPT2Config
    state: dict[str, Tensor]
    tokenizer: TextTokenizer | None = None

    def cut_to(self, vocab_size: int) -> "ForeignModel":
        """The same without rows of the vocabulary that no token has."""
        tables = ("transformer.wte.weight", "lm_head.weight")
        state = {name: tensor[:vocab_size] if name in tables else tensor for name, tensor in self.state.items()}
        return replace(self, config=replace(self.config, vocab_size=vocab_size), state=state)

    def with_activation(self, name: str) -> "ForeignModel":
        """The same with another activation function, where the person knows better than the file."""
        return replace(self, config=replace(self.config, activation_function=name))


def expected_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights, in the order of a checkpoint that stacks nothing."""
    C, inner = config.n_embd, config.n_inner
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config.vocab_size, C),
        "transformer.wpe.weight": (config.n_positions, C),
    }
    sizes = {
        "ln_1": (C,),
        "attn.c_attn": (3 * C, C),
        "attn.c_proj": (C, C),
        "ln_2": (C,),
        "mlp.c_fc": (inner, C),
        "mlp.c_proj": (C, inner),
    }
    for layer in range(config.n_layer):
        for part, shape in sizes.items():
            shapes[f"transformer.h.{layer}.{part}.weight"] = shape
            shapes[f"transformer.h.{layer}.{part}.bias"] = shape[:1]
    shapes["transformer.ln_f.weight"] = shapes["transformer.ln_f.bias"] = (C,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, C)
    return shapes


def refuse_incomplete(origin: Path, config: GPT2Config, state: dict[str, Tensor]) -> None:
    """Compare what was read with what the shape asks for.

    Raises:
        UserError: naming the first weight that is missing, has another shape, or is too many.
    """
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if name not in state:
            raise UserError(
                "{path} lacks the weight {name!r}",
                hint="the file is incomplete, or another model's; get it again",
                path=origin,
                name=name,
            )
        if tuple(state[name].shape) != shape:
            raise UserError(
                "{path}: {name} is {found}, and the checkpoint's shape asks for {expected}",
                hint="the file is damaged, or another model's; get it again",
                path=origin,
                name=name,
                found=list(state[name].shape),
                expected=list(shape),
            )
    for name in state:
        if name not in expected:
            raise UserError(
                "{path} holds the weight {name!r}, which GPT-2 does not have",
                hint="only GPT-2 can be imported",
                path=origin,
                name=name,
            )
