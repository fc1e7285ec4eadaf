"""Stretches of the token file: samples, or parts of long ones, as columns."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Stretches:
    """Columns of equal length, one entry for each stretch; each column is in whatever integer type holds it.

    Attributes:
        starts: index of the first token; at least 1.
        lengths: in tokens.
        prompt_tokens: how many tokens at the start are given and not predicted.
        sources: which SOURCE it comes from, counted from 0.
    """

    starts: Integers
    lengths: Integers
    prompt_tokens: Integers
    sources: Integers

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, chosen: slice | Int64s | npt.NDArray[np.bool_]) -> "Stretches":
        return Stretches(*(getattr(self, column.name)[chosen] for column in fields(self)))

    @property
    def ends(self) -> Int64s:
        """Index behind each one's last token."""
        return np.asarray(self.starts + self.lengths.astype(np.int64), np.int64)

    @property
    def n_tokens(self) -> int:
        """Of all of them, prompts included."""
        return int(self.lengths.sum(dtype=np.int64))

    def save(self, folder: Path) -> None:
        """Write the columns into a new folder."""
        folder.mkdir()
        for column in fields(self):
            np.save(folder / f"{column.name}.npy", getattr(self, column.name))

    @classmethod
    def open(cls, folder: Path) -> "Stretches":
        """Memory-map the columns of a folder.

        Raises:
            OSError: if one is missing.
            ValueError: if one is damaged or they differ in length.
        """
        paths = [folder / f"{column.name}.npy" for column in fields(cls)]
        stretches = cls(*map(_column, paths))
        if len({len(getattr(stretches, column.name)) for column in fields(cls)}) > 1:
            raise ValueError(f"the columns in {folder} differ in length")
        return stretches


def _column(path: Path) -> Integers:
    """A column, memory-mapped; never unpickled, never unzipped."""
    try:
        column = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  the header is read by Python's tokenizer, which has errors of its own
        raise ValueError(f"{path.name} is no column of numbers: {error}") from None
    if column.ndim != 1 or not np.issubdtype(column.dtype, np.integer):
        raise ValueError(f"{path.name} holds {column.dtype} {column.shape}, not a column of whole numbers")
    return column


def smallest(column: Integers) -> Integers:
    """The same numbers, none of them negative, in as few bytes as they fit."""
    return column.astype(np.min_scalar_type(int(column.max(initial=0))))
