"""`hf:NAME[:SPLIT]` as a SOURCE: a dataset of the Hugging Face Hub, streamed with `datasets`, never stored whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tunesmith.errors import UserError

HUB_PREFIX = "hf:"
DEFAULT_SPLIT = "train"


@dataclass(frozen=True)
class HFDataset:
    """One split of a dataset on the Hugging Face Hub."""

    dataset: str
    split: str
    kind = ".hf"

    @classmethod
    def parse(cls, source: str) -> "HFDataset":
        """Parse a SOURCE argument."""
        dataset, _, split = source.removeprefix(HUB_PREFIX).partition(":")
        if not dataset:
            raise UserError(
                "{source} names no dataset", hint="for example hf:roneneldan/TinyStories:train", source=source
            )
        return cls(dataset, split or DEFAULT_SPLIT)

    @property
    def name(self) -> str:
        """Shown in reports and errors."""
        return f"{HUB_PREFIX}{self.dataset}:{self.split}"

    path = name

    @cached_property
    def sha256(self) -> str:
        """The current commit: the content cannot change without it."""
        from huggingface_hub import HfApi

        try:
            commit = HfApi().dataset_info(self.dataset).sha
        except Exception as error:  # noqa: BLE001  the library raises its own, httpx's and the system's
            raise self._unreachable(error) from None
        return str(commit)

    @property
    def content_id(self) -> list[str]:
        """What the text depends on."""
        return [self.name, self.sha256]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Stream the rows."""
        from datasets import load_dataset

        try:
            yield from load_dataset(self.dataset, split=self.split, revision=self.sha256, streaming=True)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001  as above
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> UserError:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return UserError(
            "{name} cannot be read from the Hugging Face Hub: {error}",
            hint="check the name and the network; for private datasets: hf auth login",
            name=self.name,
            error=first_line,
        )
