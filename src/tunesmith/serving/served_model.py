"""A served model: its worker thread, the names of its tokens, its training data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.config import GenerateConfig, ServeConfig
from tunesmith.data.provenance import load_training_corpus
from tunesmith.errors import UserError
from tunesmith.generation.loading import LoadedModel, load_for_generation, max_batch_size
from tunesmith.model.hub import local_folder
from tunesmith.serving.api_errors import APIError
from tunesmith.serving.logprobs import TokenNames
from tunesmith.serving.overlap import TrainingData
from tunesmith.serving.worker import Worker


@dataclass
class ServedModel:
    """One of the models.

    Attributes:
        name: in the API.
        path: as the user wrote it; clients may use it, too.
        created_s: when it was loaded, in seconds since 1970.
        training_data: None where it is unknown.
        n_texts: that clients wait for now.
    """

    name: str
    path: str
    created_s: int
    worker: Worker
    training_data: TrainingData | None
    n_texts: int = 0
    token_names: TokenNames = field(init=False)

    def __post_init__(self) -> None:
        self.token_names = TokenNames(self.loaded.tokenizer)

    @property
    def loaded(self) -> LoadedModel:
        """The model itself; its worker alone computes with it."""
        return self.worker.loaded

    @property
    def context_length(self) -> int:
        """Longest prompt, with the end-of-text before it."""
        return self.loaded.model.config.n_positions

    def as_json(self) -> dict[str, Any]:
        """Return it as `/v1/models` lists it; the last two entries are not OpenAI's."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created_s,
            "owned_by": "tunesmith",
            "max_model_len": self.context_length,
            "has_training_data": self.training_data is not None,
        }


def load_models(config: ServeConfig, *, now_s: int) -> list[ServedModel]:
    """Load every requested model.

    Raises:
        UserError: if one cannot be used.
    """
    all_loaded = [
        load_for_generation(
            GenerateConfig(model, device=config.device, precision=config.precision, quantize=config.quantize)
        )
        for model in config.models
    ]
    models = []
    for name, path, loaded in zip(_names_of(config.models), config.models, all_loaded, strict=True):
        if config.batch_size == "auto":
            n_fitting = max_batch_size(loaded.model, loaded.model.config.n_positions)
            batch_size = max(n_fitting // len(all_loaded), 1)
        else:
            batch_size = config.batch_size
        worker = Worker(loaded, batch_size=batch_size)
        models.append(ServedModel(name, path, now_s, worker, _training_data(path, loaded, config.training_data)))
    return models


def _training_data(model: str, loaded: LoadedModel, named: Sequence[str]) -> TrainingData | None:
    """None where the run folder does not tell; a text that the user named must exist."""
    try:
        return TrainingData(load_training_corpus(local_folder(model), loaded.tokenizer, named), loaded.tokenizer)
    except UserError:
        if named:
            raise
        return None


def _names_of(models: Sequence[str]) -> list[str]:
    """Return the last part of each model's path, or all of it where two would be the same."""
    short = [Path(model).name or model for model in models]
    return [name if short.count(name) == 1 else model for name, model in zip(short, models, strict=True)]


def find_model(models: Sequence[ServedModel], name: str | None) -> ServedModel:
    """Return the model of that name; the first one without a name.

    Raises:
        APIError: if there is none.
    """
    if name is None:
        return models[0]
    for model in models:
        if name in {model.name, model.path}:
            return model
    raise APIError(
        404,
        "the model {name} is not served here; these are: {known}",
        code="model_not_found",
        param="model",
        name=name[:80],
        known=", ".join(model.name for model in models),
    )
