"""Trainer: evaluate, step, evaluate, save, until the plan is done or the run is asked to end.

`Trainer.events()` is the only generator on the path of a step. Everything that only observes a run (metrics file,
progress display, trackers, report, dashboard) is a callback on its events (`tunesmith.training.callbacks`). What a run
needs to continue is in `TrainState` and the checkpoint made from it; the data position is `state.step`.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from tunesmith.config import GenerateConfig
from tunesmith.data.corpus import Corpus
from tunesmith.data.dataloader import Batch, RankShard, TrainBatchSampler
from tunesmith.data.packing import EpochLayout
from tunesmith.data.prefetch import prefetch
from tunesmith.data.provenance import SampleLocator
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.distributed.strategy import Strategy
from tunesmith.distributed.world import World
from tunesmith.errors import DoesNotFitError, UserError
from tunesmith.evaluation.perplexity import Evaluation, evaluate_split
from tunesmith.generation.generate import GeneratedText, generate_batch
from tunesmith.generation.sampling import SamplingParams
from tunesmith.i18n import say
from tunesmith.model.activation_checkpointing import apply_activation_checkpointing, next_level
from tunesmith.model.compile import compilation_failure
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_checkpoint import from_hf_state_dict, load_gpt2, model_from_state_dict, read_into
from tunesmith.model.lora import load_adapter
from tunesmith.run_dir import CHECKPOINTS, RunDir
from tunesmith.training.anomalies import SysmemFallbackDetector, detect_loss_spike, has_sysmem_fallback
from tunesmith.training.checkpoint import ADAPTER, ModelSnapshot
from tunesmith.training.checkpointer import Checkpointer
from tunesmith.training.events import (
    KINDS,
    CheckpointDamaged,
    CompilationFailed,
    Evaluated,
    Event,
    LastModelPublished,
    LossSpiked,
    MicroBatchReduced,
    NonFiniteDetected,
    PhaseStarted,
    RunEnded,
    Sampled,
    StepLogged,
    StopRequested,
    TrainResult,
)
from tunesmith.training.nonfinite import NonFiniteMonitor, Recovery
from tunesmith.training.plan import TrainPlan
from tunesmith.training.rng import RNGState
from tunesmith.training.run_sync import remember_micro_batch_splits
from tunesmith.training.state import TrainState
from tunesmith.training.stop import StopController, StopReason
from tunesmith.training.train_step import StepResult, empty_step, fresh_scaler, learning_rate_at, train_step
from tunesmith.utils.device import allow_nondeterminism, peak_memory_bytes
from tunesmith.utils.oom import free_memory, is_out_of_memory

MIN_LOSS_SCALE = 1.0
"""In fp16; gradients that overflow below it need another dtype."""
SAMPLE_TOKENS = 64
"""Maximum length of the samples."""
SAMPLE_RULES = SamplingParams(
    temperature=GenerateConfig.temperature[0], top_k=GenerateConfig.top_k, top_p=GenerateConfig.top_p
)

Restore = Callable[[torch.amp.GradScaler], tuple[TrainState, list[CheckpointDamaged]]]


@dataclass
class Trainer:
    """A run that is ready to start.

    Attributes:
        model: on its device.
        scaler: enabled for fp16 only.
        prompts: continued before training, at every evaluation, and at the end.
        origins: name samples by file and line.
        restore: loads the last good checkpoint into model and optimizer, and reports newer, damaged ones.
        world: processes that train together; only the main process writes.
        strategy: how their gradients become one.
    """

    model: GPT2
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    rng: RNGState
    plan: TrainPlan
    corpus: Corpus
    run: RunDir
    checkpointer: Checkpointer
    state: TrainState
    tokenizer: TextTokenizer
    prompts: list[str]
    origins: SampleLocator
    restore: Restore
    stop: StopController
    world: World
    strategy: Strategy

    def __post_init__(self) -> None:
        plan = self.plan
        self._order = TrainBatchSampler(
            self.corpus.train,
            context_length=plan.context_length,
            layout=EpochLayout(plan.steps_per_epoch, plan.micro_batches_per_step, plan.tokens_per_micro_batch),
            constant_size=plan.constant_size,
            seed=plan.seed,
            shard=share_of(self.world, plan),
        )
        hint = say(
            "lower --learning-rate (now {rate:g}) or use --precision fp32, in another --out; the best model before "
            "it is in {path}",
            rate=plan.learning_rate,
            path=self.run.path,
        )
        self._recovery = Recovery(
            self.model,
            self._order,
            self.origins,
            self._restore_last_good,
            hint,
            self.world,
            searches=not self.strategy.is_sharded,
        )
        self._nonfinite = NonFiniteMonitor()
        self._fallback = SysmemFallbackDetector(self.world.size == 1 and has_sysmem_fallback(self._device))
        self._damaged: list[CheckpointDamaged] = []
        self._pending: list[Event] = []
        self._compiler_failed = False
        self._started_s = 0.0

    @property
    def _device(self) -> torch.device:
        return self.model.head_VC.device

    def events(self) -> Generator[Event, None, None]:  # noqa: C901, PLR0912, PLR0915  the whole loop, in one place
        """Train to the end, or to the first step after which `stop` asks for it; yield everything that happens."""
        plan, reason = self.plan, None
        self._started_s = time.perf_counter() - self.state.elapsed_s
        with self.checkpointer, ExitStack() as prefetching:
            if math.isnan(self.state.base_perplexity):
                yield PhaseStarted("evaluating")
                yield self._evaluate_base()
                if self.world.is_main_process:
                    yield PhaseStarted("sampling")
                yield from self._sample(0)
            if self.state.step == 0:
                self.checkpointer.save(self.state, self.scaler)  # so that a rollback before the first save has a target
            self.world.barrier()
            batches = prefetching.enter_context(closing(prefetch(self._upcoming())))
            while True:
                waiting_since_s = time.perf_counter()
                upcoming = next(batches, None)
                if upcoming is None:
                    break
                self.state.data_wait_s += time.perf_counter() - waiting_since_s
                if reason := self.stop.poll():
                    break
                try:
                    stepped = self.train_step(*upcoming)
                except DoesNotFitError:
                    if not self.strategy.is_sharded:
                        self.checkpointer.save(self.state, self.scaler)
                        yield from self.checkpointer.finish()
                        self.checkpointer.check_saved(self.state.step)
                        self.world.barrier()
                    raise
                yield from self._take_pending()
                finished, save_now = self.state.step == plan.steps, self.stop.save_requested
                if bad_step := self._bad_step(wait=finished or save_now):
                    self.checkpointer.wait()
                    yield from self.checkpointer.outcomes()  # before checkpoints are renamed
                    first_undone = self.state.step
                    yield from self._recover(bad_step)
                    if self.world.is_main_process and self.state.step < first_undone - 1:
                        self.run.truncate_logs(self.state.step, keep=(KINDS[NonFiniteDetected],))
                    prefetching.close()
                    batches = prefetching.enter_context(closing(prefetch(self._upcoming())))
                    continue
                yield from self._log(stepped, finished=finished)
                if self.state.step % plan.eval_steps == 0 or finished:
                    yield PhaseStarted("evaluating")
                    yield self._evaluate_and_publish()
                    if finished and not self.state.best_step:  # no perplexity was finite
                        self._publish()
                        yield LastModelPublished(self.state.step)
                    if not finished or not self.state.is_at_best:  # else they are generated at the end
                        if self.world.is_main_process:
                            yield PhaseStarted("sampling")
                        yield from self._sample(self.state.step)
                self.state.elapsed_s = time.perf_counter() - self._started_s
                if self.state.step % plan.save_steps == 0 or finished or save_now:
                    self.checkpointer.save(self.state, self.scaler)
                yield from self.checkpointer.outcomes()
                if finished or save_now or self._is_due(plan.eval_steps, plan.save_steps):
                    self.world.barrier()  # writing may take longer than the others would wait within a step
            prefetching.close()
            if self.state.step < plan.steps:
                if reason and reason.by_request:
                    yield StopRequested()
                self.checkpointer.save(self.state, self.scaler)
            yield from self.checkpointer.finish()
            self.checkpointer.check_saved(self.state.step)
            if self.state.step == plan.steps:
                self._restore_best()
                if self.world.is_main_process:
                    yield PhaseStarted("sampling")
                yield from self._sample(self.state.best_step, is_final=True)
            yield self._end(reason)

    # --- one step

    def train_step(self, micro_batches: list[Batch], splits: int) -> tuple[StepResult, float]:
        """Make one update, with smaller micro-batches from now on where memory runs out; return it and its start time.

        Args:
            micro_batches: of the step.
            splits: `micro_batch_splits` when they were made.

        Raises:
            DoesNotFitError: in all processes, where the smallest micro-batches are too large; where the model is
                sharded, at once and in this process only.
        """
        state, started_s = self.state, time.perf_counter()
        result = None if micro_batches else empty_step(self.model)
        before = state.micro_batch_splits, state.activation_checkpointing
        while result is None:
            if (
                state.micro_batch_splits,
                state.activation_checkpointing,
            ) != before:  # nothing is left of the failed attempt
                self.optimizer.zero_grad(set_to_none=True)
                self.scaler = fresh_scaler(self.scaler, self._device)
            if state.micro_batch_splits == splits:
                batches = micro_batches
            else:
                batches = self._order.batches(state.step, state.micro_batch_splits, state.excluded_windows)
            step_tokens = None
            if self.world.size > 1:
                step_tokens = self._order.targets(state.step, state.excluded_windows)
                self.rng.seed(_dropout_seed(self.plan.seed, state.step, self.world.rank))  # the same after a resume
            work = partial(
                train_step,
                self.model,
                self.optimizer,
                batches,
                learning_rate=self._learning_rate(),
                max_grad_norm=self.plan.max_grad_norm,
                scaler=self.scaler,
                strategy=self.strategy,
                step_tokens=step_tokens,
            )
            try:
                with self.rng.scope():
                    result = self.strategy.run_step(work)
            except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
                if not is_out_of_memory(error):
                    raise
            if result is None:  # outside of `except`: an exception in handling keeps the tensors of its frames alive
                del work, batches
                free_memory()
                self._use_less_memory(micro_batches, splits)
        if (state.micro_batch_splits, state.activation_checkpointing) != before:
            self._pending.append(self._micro_batch_reduced(state.step, was_slow=False))
        state.step += 1
        failure = compilation_failure(self.model)
        if failure and not self._compiler_failed:
            self._compiler_failed = True
            self._pending.append(CompilationFailed(state.step, failure))
        self._nonfinite.add(state.step, result.is_bad)
        return result, started_s

    def _use_less_memory(self, micro_batches: list[Batch], splits: int) -> None:
        """Halve micro-batches; where windows alone do not fit, checkpoint more activations.

        Raises:
            DoesNotFitError: if there is nothing left to do.
        """
        state = self.state
        max_splits = max(self._max_splits(micro_batches, splits), state.micro_batch_splits)
        if not self.strategy.is_sharded:
            if state.micro_batch_splits < max_splits:
                state.micro_batch_splits = min(state.micro_batch_splits * 2, max_splits)
                return
            if level := next_level(state.activation_checkpointing):
                state.activation_checkpointing = level
                apply_activation_checkpointing(self.model, level)
                return
        elif max_splits > 1:  # the others wait in a collective: this run ends, and resumes with smaller micro-batches
            remember_micro_batch_splits(self.run.path / CHECKPOINTS, min(2 * state.micro_batch_splits, max_splits))
        raise DoesNotFitError(
            "memory ran out with {what} at once",
            hint="{advice}",
            what=say("a window of {n_tokens:,} tokens", n_tokens=micro_batches[0].max_seqlen),
            advice=self._advice_if_nothing_fits(),
        )

    def _max_splits(self, micro_batches: list[Batch], splits: int) -> int:
        """Return the number of splits above which no part gets smaller; the same in all processes."""
        if self.world.size > 1:
            return -(-self.plan.tokens_per_micro_batch // micro_batches[0].max_seqlen)
        return splits * max(len(batch.cu_seqlens) - 1 for batch in micro_batches)

    def _advice_if_nothing_fits(self) -> str:
        if self.strategy.is_sharded:
            return say(
                "close what else uses the memory and continue with --resume; or start again with "
                "--activation-checkpointing full or a shorter --context-length"
            )
        return say(
            "everything up to step {step:,} is saved: free memory and continue with tunesmith train "
            "--resume --out {path}; or train again with a shorter --context-length or a smaller --model",
            step=self.state.step,
            path=self.run.path,
        )

    def _micro_batch_reduced(self, step: int, *, was_slow: bool) -> MicroBatchReduced:
        batches = self._order.batches(step, self.state.micro_batch_splits, self.state.excluded_windows)
        tokens = max((batch.n_tokens for batch in batches), default=0)
        return MicroBatchReduced(step + 1, tokens, len(batches), self.state.activation_checkpointing, was_slow)

    def _upcoming(self) -> Iterator[tuple[list[Batch], int]]:
        """Yield the micro-batches of every step to come; they are made while the step before is computed."""
        for step in range(self.state.step, self.plan.steps):
            splits = self.state.micro_batch_splits
            yield self._order.batches(step, splits, self.state.excluded_windows), splits

    def _learning_rate(self) -> float:
        return learning_rate_at(
            self.state.step,
            peak=self.plan.learning_rate,
            warmup_steps=self.plan.warmup_steps,
            total_steps=self.plan.steps,
        )

    def _is_due(self, *intervals: int) -> bool:
        return any(self.state.step % interval == 0 for interval in intervals)

    def _take_pending(self) -> list[Event]:
        pending, self._pending = self._pending, []
        return pending

    # --- non-finite values

    def _bad_step(self, *, wait: bool) -> int:
        """Return the first step that is not finite, as far as it is known without waiting; 0 if there is none."""
        plan = self.plan
        due = self._is_due(plan.log_every_steps, plan.eval_steps, plan.save_steps)
        bad = self._nonfinite.bad_steps(wait=wait or due)
        if bad:
            return bad[0]
        is_read = self.scaler.is_enabled() and self._is_due(plan.log_every_steps)
        return self.state.step if is_read and self.scaler.get_scale() < MIN_LOSS_SCALE else 0

    def _recover(self, bad_step: int) -> Sequence[Event]:
        """Do something about a bad step; `state` is then where to continue."""
        self.state, detected = self._recovery.recover(bad_step, self.state)
        damaged, self._damaged = self._damaged, []
        self._nonfinite.clear()
        if self.state.precision:
            self.scaler = torch.amp.GradScaler(self._device.type, enabled=False)
        return [detected, *damaged]

    def _restore_last_good(self) -> TrainState:
        self.checkpointer.wait()
        self.world.barrier()
        state, self._damaged = self.restore(self.scaler)
        return state

    # --- logging, evaluation and samples

    def _log(self, stepped: tuple[StepResult, float], *, finished: bool) -> list[Event]:
        """Count a step, and read its values where they are due: the only host sync of an ordinary step."""
        (result, started_s), state, plan = stepped, self.state, self.plan
        state.tokens += result.tokens
        if not result.tokens or not (finished or self._is_due(plan.log_every_steps)):
            state.training_s += time.perf_counter() - started_s
            return []
        loss = float(result.nats) / result.tokens
        state.training_s += time.perf_counter() - started_s
        events: list[Event] = [
            StepLogged(
                step=state.step,
                epoch=state.step / plan.steps_per_epoch,
                train_loss=loss,
                learning_rate=float(self.optimizer.param_groups[0]["lr"]),
                grad_norm=float(result.grad_norm),
                tokens=state.tokens,
                tokens_per_s=state.tokens_per_s,
                peak_memory_bytes=peak_memory_bytes(self._device),
                eta_s=state.training_s / state.step * (plan.steps - state.step),
                training_s=state.training_s,
                data_wait_s=state.data_wait_s,
                elapsed_s=time.perf_counter() - self._started_s,
            )
        ]
        if self._fallback.check(state.training_s, state.tokens) and not finished:
            state.micro_batch_splits *= 2
            events.append(self._micro_batch_reduced(state.step, was_slow=True))
        usual = detect_loss_spike(loss, state.recent_losses)
        if usual is not None:
            events.append(LossSpiked(state.step, loss, usual))
        return events

    def _evaluate(self) -> Evaluation:
        evaluation = evaluate_split(
            self.model,
            self.corpus.validation,
            context_length=self.plan.context_length,
            tokens_per_batch=self.plan.tokens_per_evaluation_batch,
            world=self.world,
            in_step=self.strategy.is_sharded,
        )
        self.strategy.reshard()
        return evaluation

    def _evaluate_base(self) -> Evaluated:
        evaluation = self._evaluate()
        if not math.isfinite(evaluation.loss):
            raise UserError(
                "the base model returns NaN or Inf before training",
                hint="its weights are corrupt: download the model again; or try --precision fp32",
            )
        self.state.base_perplexity = evaluation.perplexity
        return Evaluated(0, 0.0, evaluation.loss, evaluation.perplexity, is_best=False)

    def _evaluate_and_publish(self) -> Evaluated:
        state, evaluation = self.state, self._evaluate()
        is_best = evaluation.perplexity < state.best_perplexity
        if is_best:
            state.best_perplexity = evaluation.perplexity
            self._publish()
        epoch = state.step / self.plan.steps_per_epoch
        return Evaluated(state.step, epoch, evaluation.loss, evaluation.perplexity, is_best)

    def _publish(self) -> None:
        self.state.best_step, self.state.best_rollbacks = self.state.step, self.state.rollbacks
        self.checkpointer.publish(self.state)

    def _sample(self, step: int, *, is_final: bool = False) -> list[Event]:
        """Let the current model generate; at the end the best one, which is loaded or in the run directory by then."""
        sharded = self.strategy.is_sharded
        copied = self.checkpointer.copy_of_model(self.state) if sharded and not is_final else None
        if not self.world.is_main_process:
            return []
        model = self._whole_model(copied) if sharded else self.model
        texts = generate_samples(model, self.tokenizer, self.prompts, self.plan.seed)
        return [Sampled(step, texts, is_final=is_final)]

    def _whole_model(self, copied: ModelSnapshot | None) -> GPT2:
        """Return a sharded model in one piece on this process's device: a copy, or the published one."""
        model = self.model
        whole = (
            model_from_state_dict(model.config, from_hf_state_dict(copied.weights))
            if copied
            else load_gpt2(self.run.path)
        )
        whole = whole.to(self._device)
        whole.compute_dtype = model.compute_dtype
        return whole

    # --- the end

    def _restore_best(self) -> None:
        """Load the published model for the last samples: training is over, and a second copy may not fit."""
        if self.state.is_at_best or not self.world.is_main_process or self.strategy.is_sharded:
            return
        if self.plan.lora is None:
            read_into(self.model, self.run.path)
        else:
            load_adapter(self.model, self.run.path / ADAPTER)

    def _end(self, reason: StopReason | None) -> RunEnded:
        state = self.state
        state.elapsed_s = time.perf_counter() - self._started_s
        return RunEnded(
            TrainResult(
                base_perplexity=state.base_perplexity,
                perplexity=state.best_perplexity if state.best_step else None,
                best_step=state.best_step,
                steps=state.step,
                tokens=state.tokens,
                duration_s=state.elapsed_s,
                tokens_per_s=state.tokens_per_s,
                peak_memory_bytes=peak_memory_bytes(self._device),
                predicted_peak_memory_bytes=self.plan.peak_memory_bytes,
                predicted_duration_s=self.plan.duration_s,
                energy_joules=state.energy_joules,
                out=str(self.run.path),
                interrupted=state.step < self.plan.steps,
                stopped_by=reason.text if reason else "",
            )
        )


def generate_samples(model: GPT2, tokenizer: TextTokenizer, prompts: list[str], seed: int) -> list[GeneratedText]:
    """Continue prompts with a whole model; the seeds of the texts count up from `seed`."""
    seeds = [seed + number for number in range(len(prompts))]
    with allow_nondeterminism():  # nothing of the run depends on its samples
        return generate_batch(model, tokenizer, prompts, seeds=seeds, params=SAMPLE_RULES, max_new_tokens=SAMPLE_TOKENS)


def share_of(world: World, plan: TrainPlan) -> RankShard | None:
    """Return one process's part of every step; processes on a CPU share the memory and cores of their host."""
    if world.size == 1:
        return None
    divided = world.local_size if torch.device(plan.device).type == "cpu" else 1
    return RankShard(world.rank, world.size, max(plan.tokens_per_micro_batch // divided, 1))


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """Return another seed for every process at every step."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)
