"""The verb `evaluate`: one or two models and text in, figures out."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.config import EvaluateConfig, GenerateConfig
from tunesmith.data.corpus import Corpus, prepare_corpus
from tunesmith.data.source_files import FoundSources, found_sources
from tunesmith.data.sources import reading_options
from tunesmith.data.standard_input import STANDARD_INPUT
from tunesmith.data.text_size import TextSizes, text_sizes
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.data.trained_text import trained_text
from tunesmith.distributed.consistency import check_same_inputs
from tunesmith.distributed.launcher import command_world, device_for
from tunesmith.distributed.world import World
from tunesmith.errors import UserError
from tunesmith.evaluation.comparison import compare
from tunesmith.evaluation.novelty import novelty
from tunesmith.evaluation.perplexity import Evaluation, confidence_interval, evaluate_split, sliding_method
from tunesmith.files import parse_json, refuse_existing, to_json, write_text
from tunesmith.generation.sampling import SamplingRules
from tunesmith.generation.text_model import load_for_writing
from tunesmith.machine import choose_dtype
from tunesmith.model.config_file import read_hf_config
from tunesmith.model.context import chosen_context_tokens, chosen_stride_tokens
from tunesmith.model.hf_config import gpt2_config
from tunesmith.model.hub import local_folder
from tunesmith.model.weights import load_gpt2

TOKENS_PER_BATCH = 4096
SHOWN_TOKENS = 64
"""Of each sample that a model knows worst."""


@dataclass(frozen=True)
class _Measured:
    """A model with what it made of the text."""

    folder: Path
    tokenizer: TextTokenizer
    corpus: Corpus
    evaluation: Evaluation
    context_tokens: int
    stride_tokens: int


def evaluate_model(config: EvaluateConfig) -> dict[str, Any]:
    """Measure perplexity; the keys of the result carry their units.

    Of several processes each measures its part of the text, and only the first one gets a result; the others an empty
    one.

    Raises:
        UserError: if model, text or device cannot be used.
    """
    with command_world(config) as world:
        return _evaluated(config, world)


def _evaluated(config: EvaluateConfig, world: World) -> dict[str, Any]:
    out = Path(config.out) if config.out else None
    if world.size > 1 and set(STANDARD_INPUT) & set(config.sources):
        raise UserError(
            "standard input goes to one process only",
            hint="save the text as a file, or leave out --devices and torchrun",
        )
    if out and world.is_main_process:
        refuse_existing(out)
    for flag, value in (("--worst", config.worst), ("--novelty", config.novelty)):
        if value < 0:
            raise UserError("{flag} {value} makes no sense", hint="write 0 or more", flag=flag, value=value)
    with found_sources(config.sources) as found:  # before a model is fetched
        device = device_for(world, config.device)
        # Figures are compared with other programs' figures: on a CPU nothing is gained by rounding them.
        exactly = config.precision == "auto" and device.type == "cpu"
        dtype = choose_dtype("fp32" if exactly else config.precision, device).value
        tuned = _measure(config.model, config, found, device, dtype, world)
        base = _measure(config.base, config, found, device, dtype, world) if config.base else None
    if not world.is_main_process:
        return {}
    split = tuned.corpus.validation
    sizes = text_sizes(split, tuned.tokenizer)
    samples = _figures_of_samples(tuned.evaluation, sizes)
    if base:
        _refuse_other_samples(config, tuned, base)
        _add_base(samples, base.evaluation)
    if out:
        write_text(out, "".join(to_json(line) + "\n" for line in samples))
    worst = np.argsort(-tuned.evaluation.sample_nats / tuned.evaluation.sample_tokens, kind="stable")[: config.worst]
    return {
        "model": config.model,
        "sources": list(config.sources),
        **_figures(tuned, sizes, seed=config.seed),
        "samples": len(tuned.evaluation.sample_tokens),
        "context_tokens": tuned.context_tokens,
        "stride_tokens": tuned.stride_tokens,
        "precision": str(dtype).removeprefix("torch."),
        "device": str(device),
        "trained_on_this": _trained_on(tuned.folder, tuned.corpus.manifest),
        "method": sliding_method(tuned.context_tokens, tuned.stride_tokens),
        "base": _base_figures(base, config, sizes) if base else None,
        "difference": _difference(tuned, base, sizes, config) if base else None,
        "novelty": _novelty(tuned, config) if config.novelty else None,
        "worst": [{**samples[number], "text": _beginning(tuned, number)} for number in worst.tolist()],
    }


def _measure(
    name: str, config: EvaluateConfig, found: FoundSources, device: torch.device, dtype: torch.dtype, world: World
) -> _Measured:
    with world.main_process_first():
        folder = local_folder(name)
    hf_config = read_hf_config(folder)
    n_positions = gpt2_config(hf_config, origin=str(folder)).n_positions
    context_tokens = chosen_context_tokens(config.context_tokens, n_positions).value
    stride_tokens = chosen_stride_tokens(config.stride_tokens, context_tokens).value
    tokenizer = load_tokenizer(folder, hf_config)
    with world.main_process_first():
        corpus = prepare_corpus(found, tokenizer, reading_options(config), val_fraction=1, seed=config.seed)
    check_same_inputs(world, corpus.fingerprint, folder)
    model = load_gpt2(folder).to(device)
    model.compute_dtype = dtype
    evaluation = evaluate_split(
        model,
        corpus.validation,
        context_tokens=context_tokens,
        tokens_per_batch=max(TOKENS_PER_BATCH, context_tokens) * world.size,  # each batch is that of one process
        stride_tokens=stride_tokens,
        world=world,
    )
    return _Measured(folder, tokenizer, corpus, evaluation, context_tokens, stride_tokens)


def _figures(measured: _Measured, sizes: TextSizes, *, seed: int) -> dict[str, Any]:
    evaluation = measured.evaluation
    interval = confidence_interval(evaluation, seed=seed)
    characters = int(sizes.characters.sum())
    return {
        "perplexity": evaluation.perplexity,
        "confidence_interval": list(interval) if interval else None,
        "nats_per_token": evaluation.nats_per_token,
        "bits_per_byte": evaluation.bits_per_byte,
        "bits_per_character": evaluation.bits_per_byte * evaluation.text_bytes / characters,
        "tokens": evaluation.tokens,
        "bytes": evaluation.text_bytes,
        "characters": characters,
    }


def _base_figures(base: _Measured, config: EvaluateConfig, sizes: TextSizes) -> dict[str, Any]:
    return {
        "model": config.base,
        **_figures(base, sizes, seed=config.seed),
        "context_tokens": base.context_tokens,
        "stride_tokens": base.stride_tokens,
    }


def _difference(tuned: _Measured, base: _Measured, sizes: TextSizes, config: EvaluateConfig) -> dict[str, Any]:
    comparison = compare(
        tuned.evaluation,
        base.evaluation,
        sizes,
        same_tokenizer=tuned.tokenizer.fingerprint == base.tokenizer.fingerprint,
        seed=config.seed,
    )
    return asdict(comparison, dict_factory=_with_lists)


def _with_lists(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Intervals as JSON has them, for Python too."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in pairs}


def _novelty(tuned: _Measured, config: EvaluateConfig) -> dict[str, Any]:
    """Beside what was kept apart from the training, or else beside the text that is measured on."""
    corpus = trained_text(tuned.folder, tuned.tokenizer, config.trained_on)
    usual = GenerateConfig(str(tuned.folder), device=config.device, precision=config.precision)
    return novelty(
        load_for_writing(usual),
        corpus,
        corpus.validation if corpus.validation.n_samples else tuned.corpus.validation,
        n_texts=config.novelty,
        rules=SamplingRules(usual.temperature[0], usual.top_k, usual.top_p),
        seed=config.seed,
    )


def _figures_of_samples(evaluation: Evaluation, sizes: TextSizes) -> list[dict[str, Any]]:
    """One object a sample, in the order of the text; samples count from 1."""
    columns = (evaluation.sample_nats, evaluation.sample_tokens, sizes.text_bytes, sizes.characters)
    return [
        {
            "sample": number,
            "nats_per_token": nats / tokens,
            "nats": nats,
            "tokens": tokens,
            "bytes": text_bytes,
            "characters": characters,
        }
        for number, (nats, tokens, text_bytes, characters) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]


def _add_base(samples: list[dict[str, Any]], base: Evaluation) -> None:
    for sample, nats in zip(samples, base.sample_nats.tolist(), strict=True):
        sample["base_nats"] = nats


def _beginning(measured: _Measured, sample: int) -> str:
    """Of a sample's text, what is predicted."""
    stretches = measured.corpus.validation.stretches
    start = int(stretches.starts[sample]) + int(stretches.prompt_tokens[sample])
    end = int(stretches.ends[sample]) - 1
    text = measured.tokenizer.decode(measured.corpus.validation.tokens[start : min(end, start + SHOWN_TOKENS)].tolist())
    return text if end <= start + SHOWN_TOKENS else text.rstrip("\ufffd") + " ..."


def _refuse_other_samples(config: EvaluateConfig, tuned: _Measured, base: _Measured) -> None:
    """Both have to be measured on the same samples; what is left out as a repetition depends on the tokenizer."""
    same_bytes = tuned.evaluation.text_bytes == base.evaluation.text_bytes
    if not same_bytes or len(tuned.evaluation.sample_tokens) != len(base.evaluation.sample_tokens):
        raise UserError(
            "{model} and {base} divide this text into different samples",
            hint="compare them without --dedupe near, on a text that holds neither's end-of-text marker",
            model=config.model,
            base=config.base,
        )


def _trained_on(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the run that made the model learned from one of these very files."""
    try:
        run = parse_json((folder / "run.json").read_text("utf-8"))
        learned = {source["sha256"] for source in run["data"]["sources"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False  # no run folder of ours: nobody can know
    return any(source["sha256"] in learned for source in manifest["sources"])
