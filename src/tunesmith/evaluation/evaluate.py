"""The `evaluate` command: perplexity of one or two models on a text, and their difference.

Bits per byte can always be compared. Loss and perplexity can only where both models read the same tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.config import EvaluateConfig, GenerateConfig
from tunesmith.data.corpus import Corpus, TextSizes, prepare_corpus, text_sizes
from tunesmith.data.provenance import load_training_corpus
from tunesmith.data.readers import reading_options
from tunesmith.data.source_files import STDIN_NAMES, ResolvedSources, resolve_sources
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.distributed.consistency import check_same_inputs
from tunesmith.distributed.launcher import command_world, device_for
from tunesmith.distributed.world import World
from tunesmith.errors import UserError
from tunesmith.evaluation.memorization import measure_memorization
from tunesmith.evaluation.perplexity import (
    Evaluation,
    Floats,
    as_perplexity,
    evaluate_split,
    interval_of,
    perplexity_interval,
    resampled_sums,
    sliding_method,
)
from tunesmith.generation.loading import load_for_generation
from tunesmith.generation.sampling import SamplingParams
from tunesmith.model.gpt2_config import resolve_context_length, resolve_stride
from tunesmith.model.hf_checkpoint import load_gpt2
from tunesmith.model.hf_config import parse_hf_config, read_hf_config
from tunesmith.model.hub import local_folder
from tunesmith.run_dir import RunDir
from tunesmith.utils.device import resolve_dtype
from tunesmith.utils.files import check_is_new, to_json, write_text

TOKENS_PER_BATCH = 4096
SHOWN_TOKENS = 64
"""Of each of the worst samples."""


@dataclass(frozen=True)
class _ModelEvaluation:
    """A model with its evaluation."""

    name: str
    folder: Path
    tokenizer: TextTokenizer
    corpus: Corpus
    evaluation: Evaluation
    context_length: int
    stride: int


def evaluate_model(config: EvaluateConfig) -> dict[str, Any]:
    """Measure perplexity.

    Of several processes each measures its part of the text; the first one gets the result, the others an empty one.

    Raises:
        UserError: if model, text or device cannot be used.
    """
    with command_world(config) as world:
        return _evaluate_in_team(config, world)


def _evaluate_in_team(config: EvaluateConfig, world: World) -> dict[str, Any]:
    out = Path(config.out) if config.out else None
    if world.size > 1 and set(STDIN_NAMES) & set(config.sources):
        raise UserError(
            "standard input goes to one process only",
            hint="save the text as a file, or leave out --devices and torchrun",
        )
    if out and world.is_main_process:
        check_is_new(out)
    for flag, value in (("--worst", config.worst), ("--memorization", config.memorization)):
        if value < 0:
            raise UserError("{flag} {value} makes no sense", hint="write 0 or more", flag=flag, value=value)
    with resolve_sources(config.sources) as sources:  # before a model is fetched
        device = device_for(world, config.device)
        # Results are compared with those of other programs: on a CPU nothing is gained by rounding them.
        is_exact = config.precision == "auto" and device.type == "cpu"
        dtype = resolve_dtype("fp32" if is_exact else config.precision, device).value
        tuned = _evaluate_one(config.model, config, sources, device, dtype, world)
        base = _evaluate_one(config.base, config, sources, device, dtype, world) if config.base else None
    if not world.is_main_process:
        return {}
    sizes = text_sizes(tuned.corpus.validation, tuned.tokenizer)
    if base:
        _check_same_samples(tuned, base)
    samples = _sample_rows(tuned.evaluation, base.evaluation if base else None, sizes)
    if out:
        write_text(out, "".join(to_json(row) + "\n" for row in samples))
    worst = np.argsort(-tuned.evaluation.sample_nats / tuned.evaluation.sample_tokens, kind="stable")[: config.worst]
    return {
        **_results(tuned, sizes, seed=config.seed),
        "sources": list(config.sources),
        "samples": len(tuned.evaluation.sample_tokens),
        "precision": str(dtype).removeprefix("torch."),
        "device": str(device),
        "overlaps_training_data": _overlaps_training_data(tuned.folder, tuned.corpus.manifest),
        "method": sliding_method(tuned.context_length, tuned.stride),
        "base": _results(base, sizes, seed=config.seed) if base else None,
        "difference": _difference(tuned, base, sizes, seed=config.seed) if base else None,
        "novelty": _memorization(tuned, config) if config.memorization else None,
        "worst_samples": [{**samples[number], "text": _text_beginning(tuned, number)} for number in worst.tolist()],
    }


def _evaluate_one(
    name: str, config: EvaluateConfig, sources: ResolvedSources, device: torch.device, dtype: torch.dtype, world: World
) -> _ModelEvaluation:
    with world.main_process_first():
        folder = local_folder(name)
    hf_config = read_hf_config(folder)
    n_positions = parse_hf_config(hf_config, origin=str(folder)).n_positions
    context_length = resolve_context_length(config.context_length, n_positions).value
    stride = resolve_stride(config.stride, context_length).value
    tokenizer = load_tokenizer(folder, hf_config)
    with world.main_process_first():
        corpus = prepare_corpus(sources, tokenizer, reading_options(config), val_fraction=1, seed=config.seed)
    check_same_inputs(world, corpus.fingerprint, folder)
    model = load_gpt2(folder).to(device)
    model.compute_dtype = dtype
    evaluation = evaluate_split(
        model,
        corpus.validation,
        context_length=context_length,
        tokens_per_batch=max(TOKENS_PER_BATCH, context_length) * world.size,  # each batch is that of one process
        stride=stride,
        world=world,
    )
    return _ModelEvaluation(name, folder, tokenizer, corpus, evaluation, context_length, stride)


def _results(measured: _ModelEvaluation, sizes: TextSizes, *, seed: int) -> dict[str, Any]:
    evaluation = measured.evaluation
    interval = perplexity_interval(evaluation, seed=seed)
    characters = int(sizes.characters.sum())
    return {
        "model": measured.name,
        "perplexity": evaluation.perplexity,
        "perplexity_ci95": list(interval) if interval else None,
        "loss": evaluation.loss,
        "bits_per_byte": evaluation.bits_per_byte,
        "bits_per_character": evaluation.bits_per_byte * evaluation.text_bytes / characters,
        "tokens": evaluation.tokens,
        "bytes": evaluation.text_bytes,
        "characters": characters,
        "context_length": measured.context_length,
        "stride": measured.stride,
    }


def _difference(tuned: _ModelEvaluation, base: _ModelEvaluation, sizes: TextSizes, *, seed: int) -> dict[str, Any]:
    """Return tuned minus base, each with its 95 % interval over samples, both models on the same draws.

    Loss and perplexity are None where the models have different tokenizers, intervals where there is one sample only.
    `win_rate` is the share of samples that the tuned model predicts better.
    """
    ours, theirs = tuned.evaluation, base.evaluation
    columns = (ours.sample_nats, theirs.sample_nats, sizes.text_bytes, ours.sample_tokens)
    sums_KD = resampled_sums(np.stack(columns), seed=seed)

    def difference(value: float, of_draws: Callable[[Floats, Floats, Floats, Floats], Floats]) -> dict[str, Any]:
        return {"value": value, "ci95": None if sums_KD is None else list(interval_of(of_draws(*sums_KD)))}

    has_same_tokenizer = tuned.tokenizer.fingerprint == base.tokenizer.fingerprint
    return {
        "bits_per_byte": difference(
            ours.bits_per_byte - theirs.bits_per_byte,
            lambda nats, base_nats, text_bytes, _: (nats - base_nats) / math.log(2) / text_bytes,
        ),
        "loss": difference(ours.loss - theirs.loss, lambda nats, base_nats, _, tokens: (nats - base_nats) / tokens)
        if has_same_tokenizer
        else None,
        "perplexity": difference(
            ours.perplexity - theirs.perplexity,
            lambda nats, base_nats, _, tokens: _minus(as_perplexity(nats / tokens), as_perplexity(base_nats / tokens)),
        )
        if has_same_tokenizer
        else None,
        "win_rate": float((ours.sample_nats < theirs.sample_nats).mean()),
    }


def _minus(ours_D: Floats, theirs_D: Floats) -> Floats:
    """Subtract; NaN between two infinite ones."""
    with np.errstate(invalid="ignore"):
        return ours_D - theirs_D


def _memorization(tuned: _ModelEvaluation, config: EvaluateConfig) -> dict[str, Any]:
    """Compare with what was held out from training, or else with the text that is measured on."""
    corpus = load_training_corpus(tuned.folder, tuned.tokenizer, config.training_data)
    defaults = GenerateConfig(str(tuned.folder), device=config.device, precision=config.precision)
    return measure_memorization(
        load_for_generation(defaults),
        corpus,
        corpus.validation if corpus.validation.n_samples else tuned.corpus.validation,
        n_texts=config.memorization,
        params=SamplingParams(defaults.temperature[0], defaults.top_k, defaults.top_p),
        seed=config.seed,
    )


def _sample_rows(evaluation: Evaluation, base: Evaluation | None, sizes: TextSizes) -> list[dict[str, Any]]:
    """Return one object a sample, in the order of the text; samples count from 1."""
    columns = (evaluation.sample_nats, evaluation.sample_tokens, sizes.text_bytes, sizes.characters)
    rows = [
        {
            "sample": number,
            "loss": nats / tokens,
            "nats": nats,
            "tokens": tokens,
            "bytes": text_bytes,
            "characters": characters,
        }
        for number, (nats, tokens, text_bytes, characters) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]
    if base is not None:
        for row, nats in zip(rows, base.sample_nats.tolist(), strict=True):
            row["base_nats"] = nats
    return rows


def _text_beginning(measured: _ModelEvaluation, sample: int) -> str:
    """Return the beginning of the predicted part of a sample."""
    spans = measured.corpus.validation.spans
    start = int(spans.starts[sample]) + int(spans.prompt_tokens[sample])
    end = int(spans.ends[sample]) - 1
    text = measured.tokenizer.decode(measured.corpus.validation.tokens[start : min(end, start + SHOWN_TOKENS)].tolist())
    return text if end <= start + SHOWN_TOKENS else text.rstrip("\ufffd") + " ..."


def _check_same_samples(tuned: _ModelEvaluation, base: _ModelEvaluation) -> None:
    """Check that both are measured on the same samples; what `--dedupe near` drops depends on the tokenizer."""
    same_bytes = tuned.evaluation.text_bytes == base.evaluation.text_bytes
    if not same_bytes or len(tuned.evaluation.sample_tokens) != len(base.evaluation.sample_tokens):
        raise UserError(
            "{model} and {base} divide this text into different samples",
            hint="compare them without --dedupe near, on a text without the end-of-text marker of either",
            model=tuned.name,
            base=base.name,
        )


def _overlaps_training_data(folder: Path, manifest: dict[str, Any]) -> bool:
    """Return whether the run that made the model was trained on one of these very files."""
    try:
        run = RunDir(folder).read_metadata()
        training_data = {source["sha256"] for source in run["data"]["sources"]}
    except (UserError, KeyError, TypeError):
        return False  # not a run folder of ours: unknown
    return any(source["sha256"] in training_data for source in manifest["sources"])
