"""Spans of the token file (samples, or parts of long ones) as columns: one array for each property."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class IntColumns:
    """Base class: integer arrays of equal length, each in the smallest type that is wide enough."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, chosen: slice | Integers | npt.NDArray[np.bool_]) -> Self:
        return type(self)(*(getattr(self, column.name)[chosen] for column in fields(self)))

    def save(self, folder: Path) -> None:
        """Write each column as an .npy file into a new folder."""
        folder.mkdir()
        for column in fields(self):
            np.save(folder / f"{column.name}.npy", getattr(self, column.name))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Memory-map the columns of a folder."""
        columns = [open_column(folder / f"{column.name}.npy") for column in fields(cls)]
        if len(set(map(len, columns))) > 1:
            raise ValueError(f"the columns in {folder} differ in length")
        return cls(*columns)


@dataclass(frozen=True)
class TokenSpans(IntColumns):
    """Spans of the token file.

    Attributes:
        starts: index of the first token; at least 1.
        lengths: in tokens.
        prompt_tokens: how many tokens at the start are the prompt, which is not predicted.
        sources: index of the SOURCE argument.
    """

    starts: Integers
    lengths: Integers
    prompt_tokens: Integers
    sources: Integers

    @property
    def ends(self) -> Int64s:
        """Index after the last token of each span."""
        return np.asarray(self.starts + self.lengths.astype(np.int64), np.int64)

    @property
    def n_tokens(self) -> int:
        """Total length, prompts included."""
        return int(self.lengths.sum(dtype=np.int64))


def open_column(path: Path) -> Integers:
    """Memory-map an array of integers; never unpickle, never decompress.

    Raises:
        OSError: if it is missing.
        ValueError: if it is damaged.
    """
    try:
        column = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  the header is read by Python's tokenizer, which has errors of its own
        raise ValueError(f"{path.name} is not a column of numbers: {error}") from None
    if column.ndim != 1 or not np.issubdtype(column.dtype, np.integer):
        raise ValueError(f"{path.name} has {column.dtype} {column.shape}, not a column of integers")
    return column


def shrink_dtype(column: Integers) -> Integers:
    """Convert non-negative integers to the smallest unsigned type that is wide enough."""
    return column.astype(np.min_scalar_type(int(column.max(initial=0))))
