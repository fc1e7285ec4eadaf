"""`export --merge` against peft's own merging."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2LMHeadModel

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own call


@pytest.fixture
def adapter(make_model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """An adapter that peft made and saved, with random numbers in it."""
    base = make_model_folder("base")
    targets = ["attn.c_attn", "mlp.c_proj"]
    config = LoraConfig(r=4, lora_alpha=16, target_modules=targets, fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = get_peft_model(GPT2LMHeadModel.from_pretrained(base), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "expected")
    return tmp_path / "adapter"


def test_equals_pefts_merge(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The merged folder loads in transformers, with the logits of peft's merged model and the base's tokenizer."""
    out = tmp_path / "merged"
    assert main(["export", str(adapter), "--merge", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["largest_logit_difference"] < 1e-4
    ids = torch.arange(20)[None]
    expected, found = (GPT2LMHeadModel.from_pretrained(folder)(ids).logits for folder in (tmp_path / "expected", out))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (out / "tokenizer.json").is_file()
    with pytest.raises(UserError, match="merged"):
        tunesmith.export(adapter, merge=True, out=out)


def test_refusals(adapter: Path, tmp_path: Path) -> None:
    """No adapter, one with switches that are not implemented, a damaged one: named, and nothing is written."""
    out = tmp_path / "merged"
    with pytest.raises(UserError, match="there is no adapter in"):
        tunesmith.export(tmp_path / "base", merge=True, out=out)
    with pytest.raises(UserError, match="nothing to export"):
        tunesmith.export(adapter, out=out)
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text("utf-8"))
    for wrong in ({"use_dora": True}, {"peft_type": "IA3"}, {"r": 0}):
        path.write_text(json.dumps({**settings, **wrong}), encoding="utf-8")
        with pytest.raises(UserError, match=r"use_dora|no LoRA|no adapter for"):
            tunesmith.export(adapter, merge=True, out=out)
    path.write_text(json.dumps(settings), encoding="utf-8")
    (adapter / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        tunesmith.export(adapter, merge=True, out=out)
    assert not out.exists()
