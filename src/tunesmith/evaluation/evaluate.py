"""The verb `evaluate`: a model and text in, perplexity out."""

from pathlib import Path
from typing import Any

from tunesmith.config import EvaluateConfig
from tunesmith.data.corpus import Corpus, prepare_corpus
from tunesmith.data.source_files import FoundSources, found_sources
from tunesmith.data.sources import reading_options
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.evaluation.perplexity import METHOD, confidence_interval, evaluate_split
from tunesmith.files import parse_json
from tunesmith.machine import choose_device, choose_dtype
from tunesmith.model.config_file import read_hf_config
from tunesmith.model.context import chosen_context_tokens
from tunesmith.model.hf_config import gpt2_config
from tunesmith.model.hub import local_folder
from tunesmith.model.weights import load_gpt2

TOKENS_PER_BATCH = 4096


def evaluate_model(config: EvaluateConfig) -> dict[str, Any]:
    """Measure perplexity; the keys of the result carry their units.

    Raises:
        UserError: if model, text or device cannot be used.
    """
    with found_sources(config.sources) as found:  # before a model is fetched
        return _evaluate(config, found)


def _evaluate(config: EvaluateConfig, found: FoundSources) -> dict[str, Any]:
    device = choose_device(config.device).value
    # Figures are compared with other programs' figures: on a CPU nothing is gained by rounding them.
    exactly = config.precision == "auto" and device.type == "cpu"
    dtype = choose_dtype("fp32" if exactly else config.precision, device).value
    folder = local_folder(config.model)
    hf_config = read_hf_config(folder)
    n_positions = gpt2_config(hf_config, origin=str(folder)).n_positions
    context_tokens = chosen_context_tokens(config.context_tokens, n_positions).value
    tokenizer = load_tokenizer(folder, hf_config)
    corpus = _read(config, found, tokenizer)
    model = load_gpt2(folder).to(device)
    model.compute_dtype = dtype
    evaluation = evaluate_split(
        model,
        corpus.validation,
        context_tokens=context_tokens,
        tokens_per_batch=max(TOKENS_PER_BATCH, context_tokens),
    )
    interval = confidence_interval(evaluation, seed=config.seed)
    return {
        "model": config.model,
        "sources": list(config.sources),
        "perplexity": evaluation.perplexity,
        "confidence_interval": list(interval) if interval else None,
        "nats_per_token": evaluation.nats_per_token,
        "bits_per_byte": evaluation.bits_per_byte,
        "tokens": evaluation.tokens,
        "bytes": evaluation.text_bytes,
        "samples": len(evaluation.sample_tokens),
        "context_tokens": context_tokens,
        "precision": str(dtype).removeprefix("torch."),
        "device": str(device),
        "trained_on_this": _trained_on(folder, corpus.manifest),
        "method": METHOD,
    }


def _read(config: EvaluateConfig, found: FoundSources, tokenizer: TextTokenizer) -> Corpus:
    """All of the text, to be measured."""
    return prepare_corpus(found, tokenizer, reading_options(config), val_fraction=1, seed=config.seed)


def _trained_on(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the run that made the model learned from one of these very files."""
    try:
        run = parse_json((folder / "run.json").read_text("utf-8"))
        learned = {source["sha256"] for source in run["data"]["sources"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False  # no run folder of ours: nobody can know
    return any(source["sha256"] in learned for source in manifest["sources"])
