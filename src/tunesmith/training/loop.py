"""The loop: evaluate, step, evaluate, save, until the plan is done or somebody asks for the end.

Yields what happens and knows nothing of terminals. Everything it needs to continue stands in `Progress` and in
the checkpoint made from it; the data position is `progress.step`.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from tunesmith.data.batches import Batch, TrainingOrder
from tunesmith.data.corpus import Corpus
from tunesmith.data.dealing import MicroBatchShape
from tunesmith.data.origins import Origins
from tunesmith.data.read_ahead import read_ahead
from tunesmith.data.sharing import Share
from tunesmith.distributed.strategy import Strategy
from tunesmith.distributed.world import World
from tunesmith.errors import DoesNotFitError, UserError
from tunesmith.evaluation.perplexity import Evaluation, evaluate_split
from tunesmith.machine import peak_memory_bytes
from tunesmith.messages.catalogue import say
from tunesmith.model.adapters import load_adapter
from tunesmith.model.compiled import compilation_failure
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.recomputation import next_recomputation, recompute
from tunesmith.model.weights import read_into
from tunesmith.out_of_memory import in_pieces
from tunesmith.training.bad_numbers import BadStepWatch
from tunesmith.training.chance import Chance
from tunesmith.training.checkpoint import ADAPTER
from tunesmith.training.events import (
    Began,
    CheckpointDamaged,
    CompilationFailed,
    Ended,
    Evaluated,
    Event,
    LossSpiked,
    Sampled,
    Shrunk,
    Stepped,
    StopAsked,
    TrainResult,
)
from tunesmith.training.memory_lesson import MemoryLesson
from tunesmith.training.plan import TrainPlan
from tunesmith.training.progress import Progress
from tunesmith.training.recovery import Recovery
from tunesmith.training.run import RunFolder
from tunesmith.training.run_files import CHECKPOINTS
from tunesmith.training.run_sync import remember_micro_batch_splits
from tunesmith.training.samples import Samples, whole
from tunesmith.training.saving import Saving
from tunesmith.training.schedule import learning_rate_at
from tunesmith.training.spikes import usual_loss_if_spike
from tunesmith.training.spill import SpillWatch, swaps_silently
from tunesmith.training.step import StepResult, fresh_scaler, no_step, train_step

ASKED_TO = "the user"
"""What stopped a run that somebody wanted to end."""
SMALLEST_SCALE = 1.0
"""Of the loss in fp16; gradients that overflow below it need another arithmetic."""


@dataclass
class TrainingLoop:
    """A run that is ready to go.

    Attributes:
        model: in fp32 on its device.
        optimizer: of its parameters.
        scaler: enabled for fp16 only.
        chance: what dropout draws from.
        plan: what to do.
        corpus: to learn from and to measure on.
        run: where everything is written.
        saving: writes checkpoints and the best model.
        progress: how far the run is.
        samples: written before, at every evaluation, and after.
        origins: to name samples by file and line.
        reload: brings everything back to the last good checkpoint, or to the beginning, and tells which newer ones were
            damaged and set aside.
        stop: asked after every step; ends the run by saying why.
        save_asked: asked after every step; whether somebody wants a checkpoint now.
        lesson: what this run can teach about memory; None where it goes on with another's plan.
        world: the processes that learn together; only the first of them writes.
        strategy: how their gradients become one.
    """

    model: GPT2
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    chance: Chance
    plan: TrainPlan
    corpus: Corpus
    run: RunFolder
    saving: Saving
    progress: Progress
    samples: Samples
    origins: Origins
    reload: Callable[[GPT2, torch.optim.Optimizer, torch.amp.GradScaler], tuple[Progress, list[CheckpointDamaged]]]
    stop: Callable[[], str]
    save_asked: Callable[[], bool]
    lesson: MemoryLesson | None
    world: World
    strategy: Strategy

    def __post_init__(self) -> None:
        self._watch = BadStepWatch()
        self._spill = SpillWatch(self.world.size == 1 and swaps_silently(self.model.head_VC.device))
        self._stopped_by = ""
        self._damaged: list[CheckpointDamaged] = []
        self._compiler_failed = False

    def events(self) -> Iterator[Event]:
        """Run to the end, or to the first step after which `stop` says so."""
        plan, progress = self.plan, self.progress
        order = TrainingOrder(
            self.corpus.train,
            context_tokens=plan.context_tokens,
            shape=MicroBatchShape(plan.steps_per_epoch, plan.micro_batches_per_step, plan.tokens_per_micro_batch),
            constant_size=plan.constant_size,
            seed=plan.seed,
            share=share_of(self.world, plan),
        )
        started_s = time.perf_counter() - progress.elapsed_s
        if math.isnan(progress.base_perplexity):
            yield Began("evaluating")
            evaluation = self._evaluate()
            if not math.isfinite(evaluation.nats_per_token):
                raise UserError(
                    "the model computes no numbers (NaN or infinity) even before training",
                    hint="its weights are damaged: get the model again; or try --precision fp32",
                )
            progress.base_perplexity = evaluation.perplexity
            self.strategy.reshard()
            yield Evaluated(0, 0.0, evaluation.nats_per_token, evaluation.perplexity, is_best=False)
            yield from self._sampled(0)
        recovery = Recovery(
            self.model,
            order,
            self.origins,
            self._back_to_last_good,
            say(
                "lower --learning-rate (now {rate:g}) or use --precision fp32, in another --out; the best model before "
                "it stands in {path}",
                rate=plan.learning_rate,
                path=self.run.path,
            ),
            self.world,
            searches=not self.strategy.is_sharded,
        )
        with self.saving:
            if progress.step == 0:
                self.saving.save(self.progress, self.scaler)  # something to come back to from the first step on
            self.world.barrier()
            going_on = True
            while going_on:
                # the next step's batches are made while this one is computed
                with closing(read_ahead(self._upcoming(order))) as steps:
                    going_on = yield from self._steps(order, steps, recovery, started_s)
            yield from self._ending(started_s)

    def _steps(
        self,
        order: TrainingOrder,
        steps: Iterator[tuple[int, list[Batch]]],
        recovery: Recovery,
        started_s: float,
    ) -> Generator[Event, None, bool]:
        """Steps until the end, or until one goes wrong: then true, and `progress` says where to go on."""
        progress, plan = self.progress, self.plan
        waiting_since_s = time.perf_counter()
        for made_in, micro_batches in steps:
            progress.data_wait_s += time.perf_counter() - waiting_since_s
            self._stopped_by = self.stop()
            if self._stopped_by:
                return False
            step_started_s = time.perf_counter()
            result = yield from self._step(order, micro_batches, made_in)
            progress.step += 1
            yield from self._compiler_news()
            finished, save_now = progress.step == plan.steps, self.save_asked()
            intervals = (plan.log_every_steps, plan.eval_every_steps, plan.save_every_steps)
            self._watch.see(progress.step, result.is_bad)
            bad = self._watch.bad_steps(
                wait=finished or save_now or any(progress.step % every == 0 for every in intervals)
            )
            if bad or self._scale_is_used_up():
                yield from self._recovered(recovery, bad[0] if bad else progress.step)
                return True
            progress.tokens += result.tokens
            if result.tokens and (progress.step % plan.log_every_steps == 0 or finished):
                stepped = self._read(result, step_started_s, started_s)  # host sync: the only one of an ordinary step
                yield stepped
                if self._spill.see(progress.training_s, progress.tokens) and not finished:
                    progress.pieces *= 2
                    yield self._shrunk(order, progress.step, was_slow=True)
                usual = usual_loss_if_spike(stepped.loss_nats_per_token, progress.recent_losses)
                if usual is not None:
                    yield LossSpiked(progress.step, stepped.loss_nats_per_token, usual)
            else:
                progress.training_s += time.perf_counter() - step_started_s
            if progress.step % plan.eval_every_steps == 0 or finished:
                yield Began("evaluating")
                yield self._evaluate_and_publish()
                if not finished or not progress.is_at_best:  # those are written at the end
                    yield from self._sampled(progress.step)
            progress.elapsed_s = time.perf_counter() - started_s
            if progress.step % plan.save_every_steps == 0 or finished or save_now:
                self.saving.save(self.progress, self.scaler)
            yield from self.saving.outcomes()
            self._wait_for_first(finished=finished or save_now)
            waiting_since_s = time.perf_counter()
        return False

    def _compiler_news(self) -> Iterator[CompilationFailed]:
        """That it failed, once."""
        failure = compilation_failure(self.model)
        if failure and not self._compiler_failed:
            self._compiler_failed = True
            yield CompilationFailed(self.progress.step, failure)

    def _wait_for_first(self, *, finished: bool) -> None:
        """Where the first process wrote something: that may take longer than others would wait within a step."""
        intervals = (self.plan.eval_every_steps, self.plan.save_every_steps)
        if finished or any(self.progress.step % every == 0 for every in intervals):
            self.world.barrier()

    def _recovered(self, recovery: Recovery, step: int) -> Iterator[Event]:
        """Do something about a step that went wrong; `progress` says afterwards where to go on."""
        before = self.progress.step
        self.saving.wait()
        yield from self.saving.outcomes()  # later it would be told of checkpoints that may be set aside by then
        self.progress = yield from recovery.recover(step, self.progress)
        yield from self._damaged
        self._damaged = []
        self._watch.forget()
        if self.progress.precision:
            self.scaler = torch.amp.GradScaler(self.model.head_VC.device.type, enabled=False)
        if self.world.is_main_process and self.progress.step < before - 1:
            self.run.forget_after(self.progress.step, but=("bad_numbers",))

    def _back_to_last_good(self) -> Progress:
        self.saving.wait()
        self.world.barrier()
        progress, self._damaged = self.reload(self.model, self.optimizer, self.scaler)
        return progress

    def _scale_is_used_up(self) -> bool:
        """Whether fp16 gradients overflow at any scale; asked where it costs no wait for the card."""
        is_read = self.progress.step % self.plan.log_every_steps == 0
        return self.scaler.is_enabled() and is_read and self.scaler.get_scale() < SMALLEST_SCALE

    def _upcoming(self, order: TrainingOrder) -> Iterator[tuple[int, list[Batch]]]:
        """The micro-batches of every step to come, and into how many pieces they are dealt."""
        for step in range(self.progress.step, self.plan.steps):
            pieces = self.progress.pieces
            yield pieces, order.batches(step, pieces, self.progress.left_out)

    def _step(
        self, order: TrainingOrder, micro_batches: list[Batch], made_in: int
    ) -> Generator[Event, None, StepResult]:
        """One update; in smaller pieces where memory runs out, and in as small ones from then on.

        Raises:
            DoesNotFitError: in all processes, behind a last save, where the smallest are too large; where each holds a
                part of the model, at once and in this process only.
        """
        if not micro_batches:
            return no_step(self.model)
        progress, first_in, in_parts = self.progress, self.progress.pieces, self.strategy.is_sharded
        first_recompute, most = progress.recompute, self._most_pieces(micro_batches, made_in)

        def attempt(pieces: int) -> StepResult:
            if (pieces, progress.recompute) != (first_in, first_recompute):  # nothing is left of the attempt before
                self.optimizer.zero_grad(set_to_none=True)
                self.scaler = fresh_scaler(self.scaler, self.model.head_VC.device)
            asked = pieces == made_in
            batches = micro_batches if asked else order.batches(progress.step, pieces, progress.left_out)
            return self.strategy.run_step(lambda: self._update(order, batches))

        while True:
            try:
                result, progress.pieces = in_pieces(
                    attempt,
                    pieces=progress.pieces,
                    most=progress.pieces if in_parts else max(most, progress.pieces),
                    what=say("a window of {n_tokens:,} tokens", n_tokens=micro_batches[0].longest),
                    hint=self._if_nothing_fits(),
                )
                break
            except DoesNotFitError:
                more = None if in_parts else next_recomputation(progress.recompute)
                if more is None and not in_parts:
                    self.saving.save(self.progress, self.scaler)
                    yield from self.saving.finish(self.progress.step)
                    self.world.barrier()
                if more is None and in_parts:
                    remember_micro_batch_splits(self.run.path / CHECKPOINTS, min(2 * progress.pieces, max(most, 1)))
                if more is None:
                    raise
            progress.pieces, progress.recompute = max(most, progress.pieces), more
            recompute(self.model, more)
        if (progress.pieces, progress.recompute) != (first_in, first_recompute):
            yield self._shrunk(order, progress.step, was_slow=False)
        return result

    def _update(self, order: TrainingOrder, micro_batches: list[Batch]) -> StepResult:
        """From these micro-batches, or from all processes' ones."""
        step, tokens = self.progress.step, None
        if self.world.size > 1:
            tokens = order.targets(step, self.progress.left_out)
            self.chance.begin(_dropout_seed(self.plan.seed, step, self.world.rank))  # the same after a resume
        with self.chance.drawing():
            return train_step(
                self.model,
                self.optimizer,
                micro_batches,
                learning_rate=self._learning_rate(),
                max_grad_norm=self.plan.max_grad_norm,
                scaler=self.scaler,
                strategy=self.strategy,
                step_tokens=tokens,
            )

    def _most_pieces(self, micro_batches: list[Batch], made_in: int) -> int:
        """Into which micro-batches can be dealt so that each gets smaller; the same in all processes."""
        if self.world.size > 1:
            return -(-self.plan.tokens_per_micro_batch // micro_batches[0].longest)
        return made_in * max(len(batch.offsets) - 1 for batch in micro_batches)

    def _if_nothing_fits(self) -> str:
        """What a person can do then."""
        if self.strategy.is_sharded:
            return say(
                "close what else uses the memory and continue with --resume; or start anew with "
                "--recompute blocks or a shorter --context-tokens"
            )
        return say(
            "everything up to step {step:,} is saved: free memory and continue with tunesmith train "
            "--resume --out {path}; or train anew with a shorter --context-tokens or a smaller --model",
            step=self.progress.step,
            path=self.run.path,
        )

    def _shrunk(self, order: TrainingOrder, step: int, *, was_slow: bool) -> Shrunk:
        smaller = order.batches(step, self.progress.pieces, self.progress.left_out)
        tokens = max((batch.n_tokens for batch in smaller), default=0)
        return Shrunk(step + 1, tokens, len(smaller), self.progress.recompute, was_slow)

    def _ending(self, started_s: float) -> Iterator[Event]:
        progress = self.progress
        interrupted = progress.step < self.plan.steps
        if interrupted:
            if self._stopped_by == ASKED_TO:
                yield StopAsked()
            self.saving.save(self.progress, self.scaler)
        yield from self.saving.finish(self.progress.step)
        if not interrupted:
            if not progress.is_at_best:
                self._take_published()  # nothing is learned any more, and there may be no room for a second model
            yield from self._sampled(progress.best_step, is_final=True)
        progress.elapsed_s = time.perf_counter() - started_s
        yield Ended(
            TrainResult(
                base_perplexity=progress.base_perplexity,
                perplexity=progress.best_perplexity if math.isfinite(progress.best_perplexity) else None,
                best_step=progress.best_step,
                steps=progress.step,
                tokens=progress.tokens,
                duration_s=progress.elapsed_s,
                tokens_per_s=self._tokens_per_s(),
                peak_memory_bytes=peak_memory_bytes(self.model.head_VC.device),
                predicted_peak_memory_bytes=self.plan.peak_memory_bytes,
                predicted_duration_s=self.plan.duration_s,
                energy_joules=progress.energy_joules,
                out=str(self.run.path),
                interrupted=interrupted,
                stopped_by=self._stopped_by,
            )
        )

    def _learning_rate(self) -> float:
        return learning_rate_at(
            self.progress.step,
            peak=self.plan.learning_rate,
            warmup_steps=self.plan.warmup_steps,
            total_steps=self.plan.steps,
        )

    def _read(self, result: StepResult, step_started_s: float, started_s: float) -> Stepped:
        """The numbers of a step, whose time is counted with that."""
        progress, plan = self.progress, self.plan
        loss = float(result.nats) / result.tokens
        progress.training_s += time.perf_counter() - step_started_s
        return Stepped(
            step=progress.step,
            epoch=progress.step / plan.steps_per_epoch,
            loss_nats_per_token=loss,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            grad_norm=float(result.grad_norm),
            tokens=progress.tokens,
            tokens_per_s=self._tokens_per_s(),
            peak_memory_bytes=peak_memory_bytes(self.model.head_VC.device),
            eta_s=progress.training_s / progress.step * (plan.steps - progress.step),
            training_s=progress.training_s,
            data_wait_s=progress.data_wait_s,
            elapsed_s=time.perf_counter() - started_s,
        )

    def _tokens_per_s(self) -> float:
        return self.progress.tokens / self.progress.training_s if self.progress.training_s else 0.0

    def _evaluate(self) -> Evaluation:
        return evaluate_split(
            self.model,
            self.corpus.validation,
            context_tokens=self.plan.context_tokens,
            tokens_per_batch=self.plan.tokens_per_evaluation_batch,
            world=self.world,
            in_step=self.strategy.is_sharded,
        )

    def _evaluate_and_publish(self) -> Evaluated:
        progress = self.progress
        evaluation = self._evaluate()
        self.strategy.reshard()
        is_best = evaluation.perplexity < progress.best_perplexity
        if is_best:
            progress.best_perplexity, progress.best_step = evaluation.perplexity, progress.step
            progress.best_rollbacks = progress.rollbacks
            self.saving.publish(progress)
        epoch = progress.step / self.plan.steps_per_epoch
        return Evaluated(progress.step, epoch, evaluation.nats_per_token, evaluation.perplexity, is_best)

    def _sampled(self, step: int, *, is_final: bool = False) -> Iterator[Event]:
        """Texts by the model; final ones by the best, which is in the model or in the run folder by then."""
        copied = self.saving.copy_of_model(self.progress) if self.strategy.is_sharded and not is_final else None
        if not self.world.is_main_process:
            return
        yield Began("writing")
        model = whole(self.model, copied, self.run.path) if self.strategy.is_sharded else self.model
        yield Sampled(step, self.samples.by(model), is_final=is_final)

    def _take_published(self) -> None:
        if not self.world.is_main_process or self.strategy.is_sharded:
            return  # a copy writes for a model that is in parts
        if self.plan.lora is None:
            read_into(self.model, self.run.path)
        else:
            load_adapter(self.model, self.run.path / ADAPTER)


def share_of(world: World, plan: TrainPlan) -> Share | None:
    """One process's part of every step; those of a host without cards share its memory and cores."""
    if world.size == 1:
        return None
    divided = world.local_size if torch.device(plan.device).type == "cpu" else 1
    return Share(world.rank, world.size, max(plan.tokens_per_micro_batch // divided, 1))


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """Another one for every process at every step."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)
