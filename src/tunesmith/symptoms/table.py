"""The whole table: the one source of `explain`, of what `doctor` and our own errors advise, and of the troubleshooting page."""

from tunesmith.symptoms import (
    card_faults,
    cards,
    compiling,
    disk,
    hub,
    memory,
    numbers,
    packages,
    python_errors,
    scripts,
    shells,
    systems,
    text,
    training,
)
from tunesmith.symptoms.symptom import Symptom

CHAPTERS: dict[str, tuple[Symptom, ...]] = {
    "Cards, drivers, CUDA": cards.SYMPTOMS + card_faults.SYMPTOMS,
    "Memory": memory.SYMPTOMS,
    "NaN and precision": numbers.SYMPTOMS,
    "Text, tables, tokenizers": text.SYMPTOMS,
    "Models and the hub": hub.SYMPTOMS,
    "Training and writing": training.SYMPTOMS,
    "Scripts of your own": scripts.SYMPTOMS + python_errors.SYMPTOMS,
    "Compiling": compiling.SYMPTOMS,
    "Disks and files": disk.SYMPTOMS,
    "Windows, WSL, shells": systems.SYMPTOMS + shells.SYMPTOMS,
    "Python packages": packages.SYMPTOMS,
}
SYMPTOMS: tuple[Symptom, ...] = tuple(symptom for chapter in CHAPTERS.values() for symptom in chapter)
OF_THE_MACHINE = (
    "Cards, drivers, CUDA",
    "Memory",
    "Compiling",
    "Disks and files",
    "Windows, WSL, shells",
    "Python packages",
)
"""Chapters whose rows a person can mend on the machine."""
OF_A_PROGRAM = {"index-outside-of-table", "device-side-assert", "tensors-on-two-devices", "card-computed-wrongly"}
OF_A_PROGRAM |= {"library-of-another-version", "script-for-older-transformers", "file-named-like-package", "crashed"}
"""Rows of those chapters that a mistake in a program shows too: ours has to be seen with its traceback."""


def is_of_the_machine(symptom: Symptom) -> bool:
    """Whether it is the machine's fault and not a program's."""
    return symptom.name not in OF_A_PROGRAM and any(symptom in CHAPTERS[chapter] for chapter in OF_THE_MACHINE)


def named(name: str) -> Symptom:
    """A row by its name."""
    return next(symptom for symptom in SYMPTOMS if symptom.name == name)
