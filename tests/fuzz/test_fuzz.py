"""Bad inputs end in clean errors: the short form of fuzz_inputs.py, and what once broke something."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.data.corpus import open_corpus
from tunesmith.data.readers import ReadingOptions, open_source
from tunesmith.data.source_files import resolve_sources
from tunesmith.data.tokenizer import load_tokenizer
from tunesmith.errors import UserError
from tunesmith.model.hf_checkpoint import init_gpt2, load_gpt2
from tunesmith.model.hf_config import parse_hf_config, read_hf_config
from tunesmith.model.hub import local_folder
from tunesmith.run_dir import RunDir
from tunesmith.training.checkpoint import DamagedError, verify_checksums
from tunesmith.training.resume import stored_config
from tunesmith.ui.argv import read_config_file

FUZZ = Path(__file__).with_name("fuzz_inputs.py")
BROKEN = Path(__file__).parent / "once_broke"
DEEP = "[" * 5_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the program limits memory as Linux does")
def test_generated_bad_inputs_end_in_clean_errors() -> None:
    """Two thousand of them; the long form reads 100,000."""
    answer = subprocess.run([sys.executable, FUZZ, "--inputs", "2000"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = json.loads(answer.stdout)
    assert found["inputs"] == 2000
    assert min(found["by_kind"].values()) > 20


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_json_nested_too_deeply(name: str, tmp_path: Path) -> None:
    """Deeper than Python can follow: an error, or for a side file no difference."""
    (tmp_path / name).write_text(DEEP, "utf-8")
    with pytest.raises(UserError):
        read_hf_config(tmp_path)


def test_run_files_of_other_kinds(tmp_path: Path) -> None:
    """Lists where there should be tables, nesting without end, lines that are no text."""
    good = {"config": {}, "plan": {}, "result": {"status": "running"}, "data": {"fingerprint": "f"}}
    for content in (DEEP, json.dumps({**good, "config": []}), json.dumps({**good, "plan": 3})):
        (tmp_path / "run.json").write_text(content, "utf-8")
        with pytest.raises(UserError, match="is damaged"):
            stored_config(RunDir(tmp_path))
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe{"step": 1}\n' + DEEP.encode() + b"\n[1]\n")
    RunDir(tmp_path).truncate_logs(2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'


def test_configurations_of_other_kinds(tmp_path: Path) -> None:
    """Values that cannot be looked up in a table, or cannot be looped over."""
    good = read_hf_config(local_folder("tiny"))
    for strange in ({"activation_function": {"a": 1}}, {"architectures": 1}, {"architectures": "GPT2LMHeadModel"}):
        with pytest.raises(UserError):
            parse_hf_config({**good, **strange}, origin="it")
    (tmp_path / "settings.yaml").write_text(DEEP, "utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        read_config_file(str(tmp_path / "settings.yaml"))
    with pytest.raises(UserError, match="the tokenizer has ids up to"):
        load_tokenizer(local_folder("tiny"), {**good, "vocab_size": ["many"]})


def test_a_model_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    """Nothing of that size is allocated: neither for weights that are not there, nor for fresh ones."""
    huge = {**read_hf_config(local_folder("tiny")), "n_embd": 1 << 16, "n_layer": 40, "n_head": 64, "n_inner": None}
    (tmp_path / "config.json").write_text(json.dumps(huge), "utf-8")
    (tmp_path / "model.safetensors").write_bytes((local_folder("tiny") / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="weights, and there are"):
        load_gpt2(tmp_path)
    with pytest.raises(UserError, match="more than this machine has memory"):
        init_gpt2(tmp_path, dropout=0.0, seed=0)


def test_checksums_of_other_kinds(tmp_path: Path) -> None:
    """A size without end, a name that leads outside."""
    for about in ({"a": {"bytes": float("inf"), "sha256": ""}}, {"../a": {"bytes": 1, "sha256": ""}}, [], None):
        (tmp_path / "checksums.json").write_text(json.dumps({"files": about}), "utf-8")
        with pytest.raises(DamagedError):
            verify_checksums(tmp_path)


@pytest.mark.parametrize("path", sorted(BROKEN.glob("*")), ids=lambda path: path.name)
def test_sources_that_once_broke_something(path: Path) -> None:
    """Each file made a library crash or raise what nobody expected."""

    def read() -> None:
        with resolve_sources([str(path)]) as found:
            for file in found.files:
                _, lists = open_source(file, ReadingOptions(), end_of_text="<|endoftext|>")
                list(lists)

    with pytest.raises(UserError):
        read()


def test_columns_that_are_none(tmp_path: Path) -> None:
    """Headers that Python cannot parse, empty files, archives, tables of two dimensions."""
    (tmp_path / "train").mkdir()
    (tmp_path / "manifest.json").write_text('{"dtype": "uint16", "weights": [1]}', "utf-8")
    (tmp_path / "tokens.bin").write_bytes(b"\x00\x00" * 10)
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((((", b"\x80\x04junk"):
        (tmp_path / "train" / "starts.npy").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            open_corpus(tmp_path)
