"""What untrusted input can reach: each target knows good files and reads bad ones as the program would."""

import gzip
import io
import json
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mutations import mutated_bytes, mutated_json

from tunesmith.config import TrainConfig
from tunesmith.data.corpus import open_corpus, prepare_corpus
from tunesmith.data.readers import ReadingOptions
from tunesmith.data.source_files import resolve_sources
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import LoRA
from tunesmith.model.hf_checkpoint import load_gpt2, save_gpt2
from tunesmith.model.hf_config import parse_hf_config, read_config_of_tokenizer, read_hf_config
from tunesmith.model.hub import local_folder
from tunesmith.model.lora import apply_lora, load_adapter, save_adapter
from tunesmith.run_dir import RunDir
from tunesmith.training.checkpoint import find_checkpoint, load_checkpoint
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.resume import stored_config, stored_plan
from tunesmith.training.rng import RNGState
from tunesmith.ui.argv import read_config_file

Make = Callable[[Path, random.Random], Any]
Read = Callable[[Path, Any], object]


@dataclass(frozen=True)
class Target:
    """One way in.

    Attributes:
        name: of the kind of input.
        make: writes a bad input into an empty folder; what it returns is given to `read`.
        read: as the program does; may raise what the command line turns into an error.
        share: how many of a thousand inputs it gets.
    """

    name: str
    make: Make
    read: Read
    share: int


LORA = LoRA(2, 4.0, 0.0, ("attn.c_attn",))


class World:
    """Good files to begin with, made once.

    Args:
        folder: for them.
        run: a finished small run.
    """

    def __init__(self, folder: Path, run: Path) -> None:
        self._folder = folder
        self._run = run
        self._model = run
        self._tokenizer = load_tokenizer(run, read_hf_config(run))
        self._config = read_hf_config(run)
        self._gpt2 = load_gpt2(run)
        self._optimizer = make_optimizer(self._gpt2, weight_decay=0.0)
        self._checkpoint = RunDir(run).checkpoints()[-1]
        text = folder / "text.txt"
        text.write_text("".join(f"night {number} is calm\n" for number in range(30)), "utf-8")
        with resolve_sources([str(text)]) as found:
            self._corpus = prepare_corpus(found, self._tokenizer, ReadingOptions(), val_fraction=0.2, seed=0).folder
        self._tables = _tables()
        adapted = load_gpt2(run)
        apply_lora(adapted, LORA, seed=0)
        save_adapter(adapted, folder / "adapter", LORA, base="base")
        self._adapted = adapted
        old = folder / "old"
        old.mkdir()
        shutil.copyfile(run / "config.json", old / "config.json")
        torch.save(self._gpt2.state_dict(), old / "pytorch_model.bin")
        self._old = (old / "pytorch_model.bin").read_bytes()

    def targets(self) -> list[Target]:
        """All of them."""
        return [
            Target("configuration file", self._make_configuration, lambda _, path: read_config_file(str(path)), 120),
            Target("model configuration", self._make_model_configuration, self._read_model_configuration, 150),
            Target("weights", self._make_weights, lambda folder, _: load_gpt2(folder), 100),
            Target("old weights", self._make_old_weights, lambda folder, _: load_gpt2(folder), 30),
            Target("adapter", self._make_adapter, lambda folder, _: load_adapter(self._adapted, folder), 40),
            Target("tokenizer", self._make_tokenizer, self._read_tokenizer, 100),
            Target("prepared text", self._make_corpus, lambda folder, _: open_corpus(folder), 120),
            Target("checkpoint", self._make_checkpoint, self._read_checkpoint, 100),
            Target("run", self._make_run, self._read_run, 120),
            Target("table or archive", self._make_table, self._read_source, 120),
        ]

    def _make_configuration(self, folder: Path, chance: random.Random) -> Path:
        path = folder / f"settings{chance.choice(['.toml', '.yaml', '.yml', '.json'])}"
        good = (
            b'model = "tiny"\nepochs = 3.0\nsources = ["a.txt"]\n\n[train]\nseed = 4\nlora-targets = ["attn.c_attn"]\n'
        )
        if path.suffix != ".toml":
            good = b"model: tiny\nepochs: 3.0\nsources: [a.txt]\ntrain: {seed: 4}\nx: &a [1, 2]\ny: *a\n"
        path.write_bytes(mutated_bytes(good, chance))
        return path

    def _make_model_configuration(self, folder: Path, chance: random.Random) -> None:
        (folder / "config.json").write_bytes(mutated_json(self._config, chance))

    def _read_model_configuration(self, folder: Path, _: None) -> object:
        return parse_hf_config(read_hf_config(folder), origin="it")

    def _make_weights(self, folder: Path, chance: random.Random) -> None:
        shutil.copyfile(self._run / "config.json", folder / "config.json")
        good = (self._run / "model.safetensors").read_bytes()
        kind = chance.random()
        if kind < 0.3:  # the header says other things than there are
            length = int.from_bytes(good[:8], "little")
            header = mutated_json(json.loads(good[8 : 8 + length]), chance)
            claimed = len(header) if chance.random() < 0.8 else chance.choice([2**62, 2**40, 0, 7])
            (folder / "model.safetensors").write_bytes(claimed.to_bytes(8, "little") + header + good[8 + length :])
        elif kind < 0.5:
            index = {"metadata": {}, "weight_map": {"transformer.wte.weight": "a.safetensors"}}
            (folder / "model.safetensors.index.json").write_bytes(mutated_json(index, chance))
        elif kind < 0.7:  # a model of another size than the weights
            (folder / "config.json").write_bytes(mutated_json(self._config, chance))
            (folder / "model.safetensors").write_bytes(good)
        else:
            (folder / "model.safetensors").write_bytes(mutated_bytes(good, chance))

    def _make_old_weights(self, folder: Path, chance: random.Random) -> None:
        shutil.copyfile(self._run / "config.json", folder / "config.json")
        (folder / "pytorch_model.bin").write_bytes(mutated_bytes(self._old, chance))

    def _make_adapter(self, folder: Path, chance: random.Random) -> None:
        good = (self._folder / "adapter" / "adapter_model.safetensors").read_bytes()
        (folder / "adapter_model.safetensors").write_bytes(mutated_bytes(good, chance))

    def _make_tokenizer(self, folder: Path, chance: random.Random) -> None:
        shutil.copyfile(self._run / "config.json", folder / "config.json")
        kind = chance.random()
        if kind < 0.4:
            (folder / "tokenizer.json").write_bytes(mutated_json(SMALL_TOKENIZER, chance))
        elif kind < 0.6:
            (folder / "tokenizer.json").write_bytes(mutated_bytes(json.dumps(SMALL_TOKENIZER).encode(), chance))
        elif kind < 0.8:
            vocab = {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}
            (folder / "vocab.json").write_bytes(mutated_json(vocab, chance))
            (folder / "merges.txt").write_bytes(mutated_bytes(b"#version: 0.2\na b\n", chance))
        else:
            (folder / "spiece.model").write_bytes(
                mutated_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02" * 4, chance)
            )
        if chance.random() < 0.3:
            (folder / "tokenizer_config.json").write_bytes(
                mutated_json({"eos_token": {"content": "<|endoftext|>"}}, chance)
            )
        if chance.random() < 0.3:
            (folder / "config.json").write_bytes(mutated_json(self._config, chance))

    def _read_tokenizer(self, folder: Path, _: None) -> object:
        tokenizer = load_tokenizer(folder, read_config_of_tokenizer(folder))
        return tokenizer.fingerprint, tokenizer.encode(["a b ab <|endoftext|>"]), tokenizer.bytes_of_token

    def _make_corpus(self, folder: Path, chance: random.Random) -> None:
        shutil.copytree(self._corpus, folder, dirs_exist_ok=True)
        path = chance.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
        if path.name == "manifest.json" and chance.random() < 0.8:
            path.write_bytes(mutated_json(json.loads(path.read_bytes()), chance))
        else:
            path.write_bytes(mutated_bytes(path.read_bytes(), chance))

    def _make_checkpoint(self, folder: Path, chance: random.Random) -> None:
        copied = folder / "checkpoints" / self._checkpoint.name
        names = ("state.json", "checksums.json", "optimizer.safetensors", "random.safetensors")
        copied.mkdir(parents=True)
        for name in names:
            shutil.copyfile(self._checkpoint / name, copied / name)
        path = copied / chance.choice(names)
        is_json = path.suffix == ".json" and chance.random() < 0.8
        content = path.read_bytes()
        path.write_bytes(mutated_json(json.loads(content), chance) if is_json else mutated_bytes(content, chance))

    def _read_checkpoint(self, folder: Path, _: None) -> object:
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        (checkpoint,) = RunDir(folder).checkpoints()
        rng = RNGState(0, torch.device("cpu"), draws=False)
        load_checkpoint(checkpoint, model=self._gpt2, optimizer=self._optimizer, scaler=scaler, rng=rng)
        return find_checkpoint([checkpoint])

    def _make_run(self, folder: Path, chance: random.Random) -> None:
        good = json.loads((self._run / "run.json").read_bytes())
        (folder / "run.json").write_bytes(mutated_json(good, chance))
        (folder / "metrics.jsonl").write_bytes(mutated_bytes(b'{"step": 1, "kind": "step"}\n' * 3, chance))

    def _read_run(self, folder: Path, _: None) -> object:
        run = RunDir(folder)
        before: TrainConfig = stored_config(run)
        run.truncate_logs(2, keep=("step",))
        return run.status(), before, stored_plan(run)

    def _make_table(self, folder: Path, chance: random.Random) -> Path:
        name = chance.choice(sorted(self._tables))
        (folder / name).write_bytes(mutated_bytes(self._tables[name], chance))
        return folder / name

    def _read_source(self, folder: Path, path: Path) -> object:
        out = folder / "out"
        with resolve_sources([str(path)]) as found:
            tokenizer: TextTokenizer = self._tokenizer
            return prepare_corpus(found, tokenizer, ReadingOptions(), val_fraction=0.0, seed=0, out=out)


SMALL_TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": 0, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
    ],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
              "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
              "vocab": {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]},
}  # fmt: skip


def _tables() -> dict[str, bytes]:
    """Good sources of every kind."""
    rows = [{"text": f"night {number}", "n": number} for number in range(5)]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    table = pa.table({"text": [row["text"] for row in rows]})
    parquet, arrow, zipped, tarred = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    with pa.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table)
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.txt", "calm\nwindy\n")
        archive.writestr("../outside.txt", "calm\nwindy\n")
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        member = tarfile.TarInfo("../outside.txt")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"calm\n"))
    return {
        "a.txt": b"calm\nwindy\nrain\n",
        "a.csv": b'text,n\n"calm, night",1\nwindy,2\n',
        "a.tsv": b"text\tn\ncalm\t1\n",
        "a.json": json.dumps(rows).encode(),
        "a.jsonl": lines,
        "a.parquet": parquet.getvalue(),
        "a.arrow": arrow.getvalue(),
        "a.zip": zipped.getvalue(),
        "a.tar": tarred.getvalue(),
        "a.txt.gz": gzip.compress(b"calm\nwindy\n"),
        "a.jsonl.gz": gzip.compress(lines),
    }


def small_run(folder: Path) -> Path:
    """A finished run of a model of two narrow blocks."""
    import tunesmith

    tiny, model, text = local_folder("tiny"), folder / "model", folder / "log.txt"
    model.mkdir()
    hf_config = {**read_hf_config(tiny), "n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": None, "n_positions": 32}
    gpt2 = GPT2(parse_hf_config(hf_config, origin="the small model"))
    gpt2.initialize(torch.Generator().manual_seed(0))
    save_gpt2(gpt2, model, hf_config=hf_config)
    for path in tiny.glob("*token*.json"):
        shutil.copyfile(path, model / path.name)
    text.write_text("".join(f"night {number} is calm\n" for number in range(30)), "utf-8")
    tunesmith.train(text, model=model, out=folder / "run", max_steps=2, device="cpu")
    return folder / "run"
