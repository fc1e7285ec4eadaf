"""The best model so far into the run folder, as an ordinary Hugging Face model folder."""

from dataclasses import dataclass
from typing import Any

from tunesmith.config import GenerateConfig, TrainConfig
from tunesmith.data.corpus import Corpus
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.evaluation.perplexity import METHOD
from tunesmith.model.hf_checkpoint import write_weights
from tunesmith.model.lora import write_adapter
from tunesmith.training.blueprint import shown_model
from tunesmith.training.checkpoint import ADAPTER
from tunesmith.training.model_card import model_card
from tunesmith.training.plan import TrainPlan
from tunesmith.training.progress import Progress
from tunesmith.training.run import RunFolder
from tunesmith.training.snapshot import ModelCopy
from tunesmith.utils.files import write_json, write_text


@dataclass(frozen=True)
class Publisher:
    """Everything a model folder tells about its making."""

    run: RunFolder
    config: TrainConfig
    plan: TrainPlan
    corpus: Corpus
    tokenizer: TextTokenizer
    hf_config: dict[str, Any]
    version: str

    def publish(self, model: ModelCopy, progress: Progress) -> None:
        """Write model, tokenizer, generation settings and card; each file is replaced atomically."""
        folder = self.run.path
        self.tokenizer.save(folder)
        write_json(folder / "generation_config.json", generation_config(self.tokenizer.end_of_text_id))
        card = model_card(
            name=folder.resolve().name,
            base=shown_model(self.config),
            from_scratch=self.config.from_scratch,
            plan=self.plan,
            progress=progress,
            data=self.corpus.manifest,
            version=self.version,
            method=METHOD.in_english,
        )
        write_text(folder / "README.md", card)
        if self.plan.lora is not None:
            write_adapter(model.adapter, folder / ADAPTER, self.plan.lora, base=self.config.model)
        write_weights(model.weights, folder, hf_config={**self.hf_config, **_ids(self.tokenizer.end_of_text_id)})


def generation_config(end_of_text_id: int) -> dict[str, Any]:
    """What `transformers` is to do by default: the same as `tunesmith generate`."""
    return {
        **_ids(end_of_text_id),
        "pad_token_id": end_of_text_id,
        "do_sample": True,
        "temperature": GenerateConfig.temperature[0],
        "top_k": GenerateConfig.top_k,
        "top_p": GenerateConfig.top_p,
        "max_new_tokens": GenerateConfig.max_new_tokens,
    }


def _ids(end_of_text_id: int) -> dict[str, int]:
    return {"bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id}
