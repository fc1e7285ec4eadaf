"""A tokenizer with new entries, as the `tokenizers` library reads it.

New words become merges, not "added tokens": those are cut out of a text before it is looked at, inside longer words as
well, and come back wrongly where they hold letters that the byte-level alphabet has too. Only special tokens, which are
one wherever they stand, are added.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import say
from tunesmith.preparation.new_merges import NewMerges
from tunesmith.utils.files import to_json

Words = Counter[tuple[int, ...]]


def refuse_other_kinds(tokenizer: TextTokenizer) -> None:
    """Check that merges can be added.

    Raises:
        UserError: if it is no byte-level BPE.
    """
    if tokenizer.bytes_of_token is None or _content(tokenizer)["model"].get("type") != "BPE":
        raise UserError(
            "the tokenizer in {folder} is no byte-level BPE, and only such a one can be extended",
            hint="train one of your own: tunesmith tokenizer train FILE --out DIR; then train --from-scratch",
            folder=tokenizer.folder,
        )


def new_merges(tokenizer: TextTokenizer) -> NewMerges:
    """Nothing learned yet; the first new id is the one behind the tokenizer's last."""
    content = _content(tokenizer)
    vocab = dict(content["model"]["vocab"]) | {token["content"]: token["id"] for token in content["added_tokens"]}
    return NewMerges(vocab, tokenizer.vocab_size)


def extended(tokenizer: TextTokenizer, new: NewMerges, special_tokens: Mapping[str, int]) -> TextTokenizer:
    """The tokenizer with everything new.

    Args:
        tokenizer: the old one.
        new: its vocabulary becomes the new one's, special tokens excepted.
        special_tokens: with their ids.
    """
    content = _content(tokenizer)
    model = content["model"]
    old = model["merges"]
    # Added tokens stand in it too, as in GPT-2's own: no gaps, and no second numbering that could differ.
    model["vocab"] = {**new.vocab, **special_tokens}
    are_lists = not old or isinstance(old[0], list)
    model["merges"] = [*old, *([left, right] if are_lists else f"{left} {right}" for left, right in new.pairs)]
    content["added_tokens"] += [
        {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": False,
        }
        for token, token_id in special_tokens.items()
    ]
    made = Tokenizer.from_str(to_json(content))
    return TextTokenizer(made, end_of_text_id=tokenizer.end_of_text_id, folder=tokenizer.folder)


def refuse_bad_special_tokens(tokens: Sequence[str], tokenizer: TextTokenizer) -> None:
    """Check that each can be one token that comes back as it was.

    Raises:
        UserError: naming the first that cannot.
    """
    known = set(new_merges(tokenizer).vocab)
    for number, token in enumerate(tokens):
        reason = ""
        if not token.isascii() or not token.isprintable() or not token.strip() or " " in token:
            reason = say("letters, digits and signs of ASCII only, no spaces")
        elif token in known or token in tokens[:number]:
            reason = say("the vocabulary has it already")
        if reason:
            raise UserError(
                "--special-tokens {token!r} cannot be: {reason}",
                hint='name it like "<|user|>"',
                token=token,
                reason=reason,
            )


def cut_words(tokenizer: TextTokenizer, texts: Iterable[str]) -> Words:
    """How often each stretch that the pre-tokenizer leaves whole stands in texts, as ids."""
    plain = Tokenizer.from_str(tokenizer.json)
    stretches: Counter[str] = Counter()
    for text in texts:
        normal = plain.normalizer.normalize_str(text) if plain.normalizer else text
        stretches.update(stretch for stretch, _ in plain.pre_tokenizer.pre_tokenize_str(normal))
    words = Words()
    for stretch, times in stretches.items():
        words[tuple(token.id for token in plain.model.tokenize(stretch))] += times
    return words


def _content(tokenizer: TextTokenizer) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(tokenizer.json)
    return content
