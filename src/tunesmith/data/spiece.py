"""`spiece.model`, the tokenizer of the Japanese GPT-2 family, as a tokenizer of the `tokenizers` library.

The pieces, their scores and the normalisation are those of the file (Kudo, "Subword regularization", 2018); the ids
are those that the `sentencepiece` library gives, which the tests hold it to.
"""

import re
import unicodedata
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram

from tunesmith.errors import UserError
from tunesmith.utils.files import parse_json

FILE = "spiece.model"
SPACE = "\u2581"
UNIGRAM = 1
UNKNOWN, CONTROL = 2, 3
HALF_WIDTH_KANA = range(0xFF66, 0xFF9E)
VOICING_MARKS = "\uff9e\uff9f"


def read_spiece(path: Path) -> Tokenizer:
    """The tokenizer that a sentencepiece file describes.

    Raises:
        UserError: if it is of another kind than unigram.
        Exception: whatever the library raises for a damaged file.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(  # type: ignore[attr-defined]  # made at import
        path.read_bytes()
    )
    if model.trainer_spec.model_type != UNIGRAM:
        raise UserError(
            "{path} is a sentencepiece model of another kind than unigram",
            hint="write a tokenizer.json with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
            path=path,
        )
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    tokenizer = Tokenizer(Unigram(pieces, model.trainer_spec.unk_id, model.trainer_spec.byte_fallback))
    tokenizer.normalizer = _normalizer(model.normalizer_spec, lowercase=_is_lowercased(path.parent))
    scheme = "always" if model.normalizer_spec.add_dummy_prefix else "never"
    crosses_words = any(SPACE in piece[1:] for piece, _ in pieces)
    spaces = pre_tokenizers.Metaspace(SPACE, scheme, split=not crosses_words)
    control = [piece.piece for piece in model.pieces if piece.type in {UNKNOWN, CONTROL}]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([spaces, _apart(control)]) if control else spaces
    tokenizer.decoder = decoders.Metaspace(SPACE, scheme)
    return tokenizer


def _normalizer(spec: Any, *, lowercase: bool) -> Any:  # noqa: ANN401  neither library ships types for these
    steps: list[Any] = [normalizers.Lowercase()] if lowercase else []
    if spec.precompiled_charsmap:
        steps += _composed_kana()
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=True, right=True)]
    return normalizers.Sequence(steps)


def _composed_kana() -> list[Any]:
    """The library's reading of the map takes a half-width kana before it sees the voicing mark behind it."""
    pairs = [chr(kana) + mark for kana in HALF_WIDTH_KANA for mark in VOICING_MARKS]
    composed = {pair: unicodedata.normalize("NFKC", pair) for pair in pairs}
    return [normalizers.Replace(pair, one) for pair, one in composed.items() if len(one) == 1]


def _apart(control: list[str]) -> Any:  # noqa: ANN401  as above
    """Cuts behind the first character of what reads like a control piece: text never becomes one."""
    firsts = "|".join(f"{re.escape(piece[0])}(?={re.escape(piece[1:])})" for piece in control)
    return pre_tokenizers.Split(Regex(firsts), "isolated")


def _is_lowercased(folder: Path) -> bool:
    """Some checkpoints lower-case all text, and say so beside the tokenizer only."""
    try:
        settings = parse_json((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and settings.get("do_lower_case") is True
