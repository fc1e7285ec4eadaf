"""A tokenizer in the terms of GGUF."""

import json
from typing import Any

from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens (`TokenType` of the gguf library)."""


def add_vocabulary(writer: Any, tokenizer: TextTokenizer, vocab_size: int) -> None:  # noqa: ANN401  GGUFWriter
    """Write tokens, merges and special ids so that llama.cpp makes the same ids of a text, end-of-text before it.

    Args:
        writer: a `gguf.GGUFWriter`.
        tokenizer: byte-level BPE as GPT-2's.
        vocab_size: rows of the embedding table; ids without a token become unused ones.

    Raises:
        UserError: if it is of another kind.
    """
    content = json.loads(tokenizer.json)
    if not tokenizer.may_be_cut or content["model"]["type"] != "BPE":
        raise UserError(
            "the tokenizer in {folder} is no byte-level BPE like GPT-2's, and only that can be written as GGUF",
            hint="take --to onnx or --to safetensors, which keep the tokenizer as it is",
            folder=tokenizer.folder,
        )
    tokens = [f"[UNUSED{number}]" for number in range(vocab_size)]
    kinds = [UNUSED] * vocab_size
    for token, number in content["model"]["vocab"].items():
        tokens[number], kinds[number] = token, NORMAL
    for added in content["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for add_id in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id):
        add_id(tokenizer.end_of_text_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
