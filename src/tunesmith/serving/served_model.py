"""A model with everything that answers for it: its thread, the names of its tokens, its training text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.config import GenerateConfig, ServeConfig
from tunesmith.data.provenance import load_training_corpus
from tunesmith.errors import UserError
from tunesmith.generation.text_model import TextModel, load_for_writing, texts_that_fit
from tunesmith.model.hub import local_folder
from tunesmith.serving.refusal import Refusal
from tunesmith.serving.token_names import TokenNames
from tunesmith.serving.training_text import TrainingText
from tunesmith.serving.worker import Worker


@dataclass
class ServedModel:
    """One of the models.

    Attributes:
        name: clients call it so.
        asked_as: what the user called it; clients may, too.
        created_s: when it was loaded, in seconds since 1970.
        worker: writes with it.
        training_text: finds copies; None where nobody knows what it was trained on.
        n_texts: that clients wait for now.
    """

    name: str
    asked_as: str
    created_s: int
    worker: Worker
    training_text: TrainingText | None
    n_texts: int = 0
    token_names: TokenNames = field(init=False)

    def __post_init__(self) -> None:
        self.token_names = TokenNames(self.writer.tokenizer)

    @property
    def writer(self) -> TextModel:
        """The model itself; its worker alone computes with it."""
        return self.worker.writer

    @property
    def context_tokens(self) -> int:
        """Longest prompt, with the end-of-text before it."""
        return self.writer.model.config.n_positions

    def as_json(self) -> dict[str, Any]:
        """As `/v1/models` lists it; the last two entries are not OpenAI's."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created_s,
            "owned_by": "tunesmith",
            "context_tokens": self.context_tokens,
            "knows_its_training_text": self.training_text is not None,
        }


def load_models(config: ServeConfig, *, now_s: int) -> list[ServedModel]:
    """Load every model that was asked for.

    Raises:
        UserError: if one cannot be used.
    """
    writers = [
        load_for_writing(
            GenerateConfig(model, device=config.device, precision=config.precision, quantize=config.quantize)
        )
        for model in config.models
    ]
    models = []
    for name, asked_as, writer in zip(names_of(config.models), config.models, writers, strict=True):
        if config.batch_size == "auto":
            room = texts_that_fit(writer.model, writer.model.config.n_positions)
            texts_at_once = max(room // len(writers), 1)
        else:
            texts_at_once = config.batch_size
        worker = Worker(writer, texts_at_once=texts_at_once)
        models.append(ServedModel(name, asked_as, now_s, worker, _training_text(asked_as, writer, config.trained_on)))
    return models


def _training_text(model: str, writer: TextModel, named: Sequence[str]) -> TrainingText | None:
    """None where a model does not say what it was trained on; a text that the user named has to be there."""
    try:
        return TrainingText(load_training_corpus(local_folder(model), writer.tokenizer, named), writer.tokenizer)
    except UserError:
        if named:
            raise
        return None


def names_of(models: Sequence[str]) -> list[str]:
    """The last part of each model's name, or all of it where two would be called the same."""
    short = [Path(model).name or model for model in models]
    return [name if short.count(name) == 1 else model for name, model in zip(short, models, strict=True)]


def find_model(models: Sequence[ServedModel], name: str | None) -> ServedModel:
    """The model of that name; the first one where none was named.

    Raises:
        Refusal: if there is none.
    """
    if name is None:
        return models[0]
    for model in models:
        if name in {model.name, model.asked_as}:
            return model
    raise Refusal(
        404,
        "the model {name} is not served here; these are: {known}",
        code="model_not_found",
        param="model",
        name=name[:80],
        known=", ".join(model.name for model in models),
    )
