"""The text that a model was trained on, found again from its run folder, or named by the user."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.corpus import Corpus, cached_corpus, open_corpus, prepare_corpus
from tunesmith.data.source_files import found_sources, is_prepared
from tunesmith.data.sources import ReadingOptions
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.run_dir import RunDir


def trained_text(folder: Path, tokenizer: TextTokenizer, named: Sequence[str]) -> Corpus:
    """The corpus of a model's training, with what was kept apart from it.

    Args:
        folder: the model's.
        tokenizer: its own.
        named: SOURCE arguments that overrule what the run folder says; nothing of them is kept apart.

    Raises:
        UserError: if nobody named it and the run folder does not lead to it.
    """
    if named:
        with found_sources(named) as found:
            return prepare_corpus(found, tokenizer, ReadingOptions(), val_fraction=0, seed=0)
    try:
        run = RunDir(folder).read_metadata()
        fingerprint, sources = run["data"]["fingerprint"], run["config"]["sources"]
    except (UserError, KeyError, TypeError):
        raise UserError(
            "{folder} does not say what it was trained on",
            hint="name its training text: --trained-on FILE",
            folder=folder,
        ) from None
    prepared = [open_corpus(Path(source)) for source in sources if is_prepared(source)]
    corpus = prepared[0] if prepared else cached_corpus(fingerprint)
    if corpus is None or corpus.manifest["tokenizer"] != tokenizer.fingerprint:
        raise UserError(
            "the text that {folder} was trained on is not in the cache any more",
            hint="name it: --trained-on {sources}",
            folder=folder,
            sources=" ".join(map(str, sources)) or "FILE",
        )
    return corpus


def name_of_sample(corpus: Corpus, position: int, end_of_text_id: int) -> dict[str, Any]:
    """Where in the sources a token of the corpus stands: file, and the number of the sample in it, from 1."""
    number = int(np.count_nonzero(corpus.train.tokens[:position] == end_of_text_id))
    for source in corpus.manifest["sources"]:
        if number <= source["samples"]:
            return {"source": source["name"], "sample": number}
        number -= source["samples"]
    raise AssertionError("every token belongs to a sample of a source")
