"""config.json is implemented exactly or refused by the name of the switch."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config as OracleConfig

from tunesmith.errors import UserError
from tunesmith.model.hf_config import parse_hf_config, read_hf_config

REFUSED: dict[str, Any] = {
    "add_cross_attention": True,
    "is_encoder_decoder": True,
    "pruned_heads": {"0": [1]},
    "quantization_config": {"bits": 4},
    "auto_map": {"AutoModel": "model.Evil"},
    "position_embedding_type": "rotary",
    "chunk_size_feed_forward": 8,
    "multi_query": True,
    "activation_function": "quick_gelu",
    "model_type": "gpt_neo",
    "n_embd": -1,
    "n_layer": "12",
    "n_head": True,
    "vocab_size": 10**12,
    "n_positions": 0,
    "n_inner": 1.5,
    "layer_norm_epsilon": 0,
    "tie_word_embeddings": "yes",
    "scale_attn_weights": None,
}


@pytest.mark.parametrize("switch", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(switch: str) -> None:
    """The error names the checkpoint and the switch or its value."""
    with pytest.raises(UserError) as error:
        parse_hf_config({switch: REFUSED[switch]}, origin="some/model")
    assert "some/model" in error.value.message
    assert switch in error.value.message or repr(REFUSED[switch]) in error.value.message


def test_heads_must_divide_the_width() -> None:
    """100 channels cannot be shared by 12 heads."""
    with pytest.raises(UserError, match="n_embd 100 is not a multiple of n_head 12"):
        parse_hf_config({"n_embd": 100}, origin="m")


@pytest.mark.parametrize("head", ["GPT2ForSequenceClassification", "GPT2ForTokenClassification"])
def test_other_heads_are_refused(head: str) -> None:
    """A classifier is no language model."""
    with pytest.raises(UserError, match=head):
        parse_hf_config({"architectures": [head]}, origin="m")


def test_defaults_are_those_of_transformers() -> None:
    """An empty config.json means GPT-2 124M, and so does the one transformers writes."""
    oracle = OracleConfig()
    ours = asdict(parse_hf_config({}, origin="m"))
    assert ours.pop("n_inner") == 4 * oracle.n_embd
    assert ours == {name: getattr(oracle, name) for name in ours}
    assert parse_hf_config(oracle.to_dict(), origin="m") == parse_hf_config({}, origin="m")


def test_harmless_fields_are_left_alone() -> None:
    """What does not change the arithmetic may stand there."""
    raw = {"task_specific_params": {"text-generation": {}}, "attn_pdrop": 0.1, "use_cache": False, "_name": "x"}
    assert parse_hf_config(raw, origin="m").n_layer == 12


@pytest.mark.parametrize(
    ("content", "named"), [("{", "is not valid JSON"), ("[1]", "not an object"), (None, "has no config.json")]
)
def test_damaged_config_files(content: str | None, named: str, tmp_path: Path) -> None:
    """A missing or damaged config.json is one clear error."""
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=named):
        read_hf_config(tmp_path)


def test_run_without_a_model_says_how_to_go_on(tmp_path: Path) -> None:
    """A run folder that has no model yet names the command that continues it."""
    (tmp_path / "run.json").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_hf_config(tmp_path)
    assert f"tunesmith train --resume --out {tmp_path}" in error.value.hint
