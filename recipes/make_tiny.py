"""Make `tiny`, the checkpoint inside the package: `python recipes/make_tiny.py WORK_FOLDER`.

A real GPT-2 (6 layers, 128 wide, 512 positions, 1.8M parameters) with its own byte-level BPE of 4,096 entries,
trained by `tunesmith train --from-scratch` on English that every Python installation carries: the topics of
`pydoc`, and the docstrings and comments of the standard library. No download, no text in this repository.

    python recipes/make_tiny.py /tmp/tiny

writes the text, the tokenizer and a folder of fresh shape into WORK_FOLDER, trains (about half an hour on two
CPU cores), and puts the result, rounded to bf16, into src/tunesmith/assets/tiny. Text and weights differ a
little between Python versions; `assets/tiny/recipe.json` records which one made the shipped file.
"""

import argparse
import ast
import io
import json
import platform
import re
import shutil
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import tunesmith
from tunesmith.model.hf_checkpoint import load_gpt2, save_gpt2
from tunesmith.model.hf_config import read_hf_config

END_OF_TEXT = "<|endoftext|>"
SHAPE = {"vocab_size": 4096, "n_positions": 512, "n_embd": 128, "n_layer": 6, "n_head": 4}
ASSET = Path(__file__).parents[1] / "src" / "tunesmith" / "assets" / "tiny"
SHORTEST_CHARACTERS = 40
PROSE = re.compile(r"[A-Za-z][a-z]+(?: [a-z]+){3}")


def main() -> None:
    """Make the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_folder", type=Path)
    parser.add_argument("--epochs", type=float, default=10.0)
    arguments = parser.parse_args()
    work: Path = arguments.work_folder
    work.mkdir(parents=True)
    texts = sorted(set(passages()))
    source = work / "english.csv"
    write_csv(source, texts)
    print(f"{len(texts):,} passages, {sum(map(len, texts)):,} characters")
    shape = work / "shape"
    make_shape(shape, texts)
    result = tunesmith.train(
        source,
        model=str(shape),
        from_scratch=True,
        out=str(work / "run"),
        epochs=arguments.epochs,
        learning_rate=2e-3,
        weight_decay=0.1,
        warmup_ratio=0.03,
        tokens_per_step=4096,
        val_fraction=0.02,
        on_event=lambda event: print(event) if type(event).__name__ in {"Evaluated", "Sampled"} else None,
    )
    print(result)
    ship(work / "run", texts)


def passages() -> Iterator[str]:
    """English prose of the running Python: a topic, a docstring or a block of comments is a passage."""
    for topic in topics.values():
        yield from passage(topic)
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            code = path.read_text("utf-8")
            tree = ast.parse(code)
        except (SyntaxError, UnicodeDecodeError):
            continue  # the library's own tests hold broken files on purpose
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from passage(ast.get_docstring(node) or "")
        yield from comments(code)


def passage(text: str) -> Iterator[str]:
    """What of a text reads like English, if anything does."""
    kept = list(paragraphs(text))
    if kept:
        yield "\n\n".join(kept)


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs that read like English, line breaks inside them taken out."""
    for block in re.split(r"\n\s*\n", text):
        line = " ".join(block.split())
        if len(line) >= SHORTEST_CHARACTERS and PROSE.search(line) and line.isascii() and ">>>" not in line:
            yield line


def comments(code: str) -> Iterator[str]:
    """Comment blocks of a source file."""
    block: list[str] = []
    last_line = -2
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type != tokenize.COMMENT:
                continue
            if token.start[0] != last_line + 1:
                yield from passage("\n".join(block))
                block = []
            block.append(token.string.lstrip("#! "))
            last_line = token.start[0]
    except (tokenize.TokenError, IndentationError):
        return
    yield from passage("\n".join(block))


def write_csv(path: Path, texts: list[str]) -> None:
    """One column, `text`."""
    rows = ['"' + text.replace('"', '""') + '"' for text in texts]
    path.write_text("\n".join(["text", *rows]) + "\n", encoding="utf-8")


def make_shape(folder: Path, texts: list[str]) -> None:
    """A model folder without weights: configuration and a tokenizer trained on the text."""
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"],
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    end_of_text_id = tokenizer.token_to_id(END_OF_TEXT)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **SHAPE,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def ship(run: Path, texts: list[str]) -> None:
    """Put the model into the package, in bf16, with a note on its making."""
    shutil.rmtree(ASSET, ignore_errors=True)
    ASSET.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(run / name, ASSET / name)
    save_gpt2(load_gpt2(run), ASSET, hf_config=read_hf_config(run), dtype=torch.bfloat16)
    note = {
        "recipe": "recipes/make_tiny.py",
        "python": platform.python_version(),
        "passages": len(texts),
        "characters": sum(map(len, texts)),
        "result": json.loads((run / "run.json").read_text("utf-8"))["result"],
    }
    note["result"].pop("out")
    (ASSET / "recipe.json").write_text(json.dumps(note, indent=2, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
