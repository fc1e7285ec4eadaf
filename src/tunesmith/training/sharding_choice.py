"""Whether each of several processes holds the whole model, or its part of weights, gradients and moments."""

from dataclasses import dataclass, replace

from tunesmith.config import TrainConfig
from tunesmith.data.corpus import Corpus
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import say
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.fit import fastest_fit, fits
from tunesmith.planning.hardware import GIB, Hardware
from tunesmith.training.epoch import request_of
from tunesmith.utils.device import Decision


@dataclass(frozen=True)
class Processes:
    """How many learn together.

    Attributes:
        size: all of them.
        on_host: those of one host.
    """

    size: int
    on_host: int

    def speedup(self, kind: str) -> float:
        """At best: each card computes by itself, processes without cards share a host's cores."""
        return self.size if kind == "cuda" else self.size / self.on_host


ONE_PROCESS = Processes(1, 1)


def share_of_hardware(hardware: Hardware, processes: Processes) -> Hardware:
    """What one process may use: its card, or its part of the host's memory."""
    if processes.on_host == 1:
        return hardware
    host_bytes = hardware.host_bytes // processes.on_host
    if hardware.kind == "cuda":
        return replace(hardware, host_bytes=host_bytes)
    reason = say("{reason}, for each of {n} processes", reason=hardware.budget.reason, n=processes.on_host)
    budget = Decision(hardware.budget.value // processes.on_host, reason)
    return replace(hardware, host_bytes=host_bytes, budget=budget)


def choose_sharding(
    config: TrainConfig,
    model: GPT2Config,
    corpus: Corpus,
    hardware: Hardware,
    experience: CalibrationCache,
    processes: Processes,
) -> Decision[bool]:
    """Decide `--shard`; the arguments are those of `make_plan`.

    Raises:
        UserError: if it is asked for and cannot be.
    """
    refused = _refusal(config, hardware.precision)
    if config.shard == "yes":
        if refused or processes.size == 1:
            raise UserError(
                "--shard yes: {refused}",
                hint="leave it out, or what it does not go with; --devices 2 or torchrun starts several processes",
                refused=refused or say("there is only one process"),
            )
        return Decision(True, say("asked for"))
    if processes.size == 1:
        return Decision(False, say("there is only one process"))
    if config.shard == "no" or refused:
        return Decision(False, refused or say("asked for"))
    return _by_room(config, model, corpus, hardware, experience, processes)


def _by_room(
    config: TrainConfig,
    model: GPT2Config,
    corpus: Corpus,
    hardware: Hardware,
    experience: CalibrationCache,
    processes: Processes,
) -> Decision[bool]:
    """Parts where a whole model in fp32 does not fit, and its parts do."""
    whole, _ = request_of(config, model, corpus, hardware, experience, processes=processes.size)
    replicated = fastest_fit(whole, hardware, STATE_FORMATS["fp32"])
    if fits(replicated, hardware):
        return Decision(False, say("each process holds the whole model in fp32: it fits, and reduces once a step"))
    parts, _ = request_of(config, model, corpus, hardware, experience, processes=processes.size, is_sharded=True)
    if not fits(fastest_fit(parts, hardware, STATE_FORMATS["fp32"]), hardware):
        return Decision(False, say("in fp32 it does not fit {n} processes even in parts", n=processes.size))
    return Decision(
        True,
        say(
            "a whole model in fp32 takes {needed_gib:.1f} GiB at least, and {budget_gib:.1f} may be taken",
            needed_gib=replicated.memory.peak_bytes / GIB,
            budget_gib=hardware.budget.value / GIB,
        ),
    )


def _refusal(config: TrainConfig, precision: str) -> str:
    """Why the model cannot be held in parts; empty where it can."""
    if config.lora_rank:
        return say("adapters are small: every process holds them whole")
    if config.optimizer == "muon":
        return say("muon needs whole matrices, and each process holds a part")
    if config.freeze != "nothing":
        return say("a model of which something is frozen is held whole")
    if config.states not in {"auto", "fp32"}:
        return say("--states {states} goes with a whole model only", states=config.states)
    if precision == "float16":
        return say("in fp16 the loss scale is decided over the whole gradient")
    return ""
