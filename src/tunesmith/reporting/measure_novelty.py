"""`report --novelty N`: lets the kept model write, and keeps in the run folder how much of that is copied."""

from pathlib import Path

from tunesmith.config import GenerateConfig
from tunesmith.data.corpus import Corpus, prepare_corpus
from tunesmith.data.source_files import found_sources
from tunesmith.data.sources import reading_options
from tunesmith.data.standard_input import STANDARD_INPUT
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.data.trained_text import trained_text
from tunesmith.evaluation.novelty import novelty
from tunesmith.files import write_json
from tunesmith.generation.sampling import SamplingRules
from tunesmith.generation.text_model import load_for_writing
from tunesmith.run_dir import NOVELTY, RunDir
from tunesmith.training.resume import check_same_text, stored_config


def measure_novelty(folder: Path, *, n_texts: int, seed: int) -> None:
    """Write so many texts, look for them in the training text, and keep what was found.

    Args:
        folder: of a run that has a model.
        n_texts: how many.
        seed: of the first.

    Raises:
        UserError: if there is no model yet, or its training text is gone.
    """
    usual = GenerateConfig(str(folder))
    writer = load_for_writing(usual)
    corpus = _training_text(folder, writer.tokenizer)
    rules = SamplingRules(usual.temperature[0], usual.top_k, usual.top_p)
    write_json(folder / NOVELTY, novelty(writer, corpus, corpus.validation, n_texts=n_texts, rules=rules, seed=seed))


def _training_text(folder: Path, tokenizer: TextTokenizer) -> Corpus:
    """As the run read it, with what was kept apart; read again where the cache has lost it."""
    run = RunDir(folder)
    asked = stored_config(run)
    if set(asked.sources) & set(STANDARD_INPUT):
        return trained_text(folder, tokenizer, ())
    with found_sources(asked.sources) as found:
        options = reading_options(asked)
        corpus = prepare_corpus(found, tokenizer, options, val_fraction=asked.val_fraction, seed=asked.seed)
    check_same_text(run, corpus)
    return corpus
