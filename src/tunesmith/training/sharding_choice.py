"""Decides `--shard`: whether each process has the whole model, or shards of weights, gradients and moments."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

from tunesmith.config import TrainingConfig
from tunesmith.data.corpus import Corpus
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.fit import fastest_fit, fits
from tunesmith.planning.hardware import GIB, Hardware
from tunesmith.training.epoch import request_of
from tunesmith.utils.device import Decision


class Processes(NamedTuple):
    """How many processes train together, and how many of them share a host."""

    size: int
    on_host: int

    def speedup(self, kind: str) -> float:
        """Return the largest possible speedup: each GPU computes alone, but CPU processes share a host's cores."""
        return self.size if kind == "cuda" else self.size / self.on_host


ONE_PROCESS = Processes(1, 1)


def share_of_hardware(hardware: Hardware, processes: Processes) -> Hardware:
    """Return what one process may use: its GPU, or its share of the host's memory."""
    if processes.on_host == 1:
        return hardware
    host_bytes = hardware.host_bytes // processes.on_host
    if hardware.kind == "cuda":
        return replace(hardware, host_bytes=host_bytes)
    reason = say("{reason}, for each of {n} processes", reason=hardware.budget.reason, n=processes.on_host)
    budget = Decision(hardware.budget.value // processes.on_host, reason)
    return replace(hardware, host_bytes=host_bytes, budget=budget)


def choose_sharding(
    config: TrainingConfig,
    model: GPT2Config,
    corpus: Corpus,
    hardware: Hardware,
    experience: CalibrationCache,
    processes: Processes,
) -> Decision[bool]:
    """Shard only where an unsharded model in fp32 does not fit; the arguments are those of `make_plan`.

    Raises:
        UserError: if sharding is requested and impossible.
    """
    refused = _refusal(config, hardware.precision)
    if processes.size == 1:
        refused = refused or say("there is only one process")
    if config.shard == "yes":
        if refused:
            raise UserError(
                "--shard yes: {refused}",
                hint="leave it out, or what it does not go with; --devices 2 or torchrun starts several processes",
                refused=refused,
            )
        return Decision(True, say("asked for"))
    if processes.size == 1:
        return Decision(False, say("there is only one process"))
    if config.shard == "no" or refused:
        return Decision(False, refused or say("asked for"))
    plan = partial(request_of, config, model, corpus, hardware, experience, processes=processes.size)
    replicated = fastest_fit(plan()[0], hardware, STATE_FORMATS["fp32"])
    if fits(replicated, hardware):
        return Decision(False, say("each process has the whole model in fp32: it fits, and reduces once a step"))
    if not fits(fastest_fit(plan(is_sharded=True)[0], hardware, STATE_FORMATS["fp32"]), hardware):
        return Decision(False, say("in fp32 it does not fit {n} processes even in parts", n=processes.size))
    return Decision(
        True,
        say(
            "a whole model in fp32 takes {needed_gib:.1f} GiB at least, and {budget_gib:.1f} may be taken",
            needed_gib=replicated.memory.peak_bytes / GIB,
            budget_gib=hardware.budget.value / GIB,
        ),
    )


def _refusal(config: TrainingConfig, precision: str) -> str:
    """Return why the model cannot be sharded; empty where it can."""
    if config.lora_r:
        return say("adapters are small: every process has all of them")
    if config.optimizer == "muon":
        return say("muon needs whole matrices, and each process has a shard")
    if config.freeze != "none":
        return say("a model of which something is frozen is held whole")
    if config.memory_mode not in {"auto", "fp32"}:
        return say("--memory-mode {memory_mode} goes with a whole model only", memory_mode=config.memory_mode)
    if precision == "float16":
        return say("in fp16 the loss scale is decided over the whole gradient")
    return ""
