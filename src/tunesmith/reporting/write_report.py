"""The command `report`, and the report at the end of every training. No torch unless `--memorization` is given."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.config import GenerateConfig, ReportConfig
from tunesmith.errors import UserError
from tunesmith.reporting.advice import advice_for
from tunesmith.reporting.html import report_page
from tunesmith.reporting.run_reader import describe_run, read_run
from tunesmith.reporting.tables import verdict_on
from tunesmith.run_dir import NOVELTY, REPORT
from tunesmith.utils.files import write_json, write_text

if TYPE_CHECKING:
    from tunesmith.data.corpus import Corpus
    from tunesmith.data.tokenizer import TextTokenizer


def write_report(config: ReportConfig) -> dict[str, Any]:
    """Read a run and write its report.

    Raises:
        UserError: if the folder is not a run, or the file cannot be written.
    """
    folder = Path(config.run)
    if config.memorization < 0:
        raise UserError("--memorization {count} makes no sense", hint="write 0 or more", count=config.memorization)
    if config.memorization:
        describe_run(folder)  # before a model is loaded
        measure_novelty(folder, n_texts=config.memorization, seed=config.seed)
    run = read_run(folder)
    path = Path(config.out) if config.out else folder / REPORT
    if path.is_dir():
        raise UserError("--out {path} is a folder", hint="name a file, for example {path}/report.html", path=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = report_page(run)
    write_text(path, page)
    return {
        "report": str(path),
        "bytes": len(page.encode()),
        "verdict": verdict_on(run).sentence,
        "advice": [
            {"rule": one.rule, "title": one.title, "evidence": one.evidence, "action": one.action}
            for one in advice_for(run)
        ],
    }


def measure_novelty(folder: Path, *, n_texts: int, seed: int) -> None:
    """Generate `n_texts` texts with a run's model and record how much of them is copied from the training text.

    Raises:
        UserError: if the model does not exist yet, or its training text is gone.
    """
    from tunesmith.evaluation.memorization import measure_memorization
    from tunesmith.generation.loading import load_for_generation
    from tunesmith.generation.sampling import SamplingParams

    defaults = GenerateConfig(str(folder))
    model = load_for_generation(defaults)
    corpus = _training_corpus(folder, model.tokenizer)
    params = SamplingParams(defaults.temperature[0], defaults.top_k, defaults.top_p)
    measured = measure_memorization(model, corpus, corpus.validation, n_texts=n_texts, params=params, seed=seed)
    write_json(folder / NOVELTY, measured)


def _training_corpus(folder: Path, tokenizer: "TextTokenizer") -> "Corpus":
    """The corpus of a run with its validation split, tokenized again where the cache has lost it."""
    from tunesmith.data.corpus import prepare_corpus
    from tunesmith.data.provenance import load_training_corpus
    from tunesmith.data.readers import reading_options
    from tunesmith.data.source_files import STDIN_NAMES, resolve_sources
    from tunesmith.run_dir import RunDir
    from tunesmith.training.resume import check_same_text, stored_config

    run = RunDir(folder)
    config = stored_config(run)
    if set(config.sources) & set(STDIN_NAMES):
        return load_training_corpus(folder, tokenizer, ())
    with resolve_sources(config.sources) as sources:
        options = reading_options(config)
        corpus = prepare_corpus(sources, tokenizer, options, val_fraction=config.val_fraction, seed=config.seed)
    check_same_text(run, corpus)
    return corpus
