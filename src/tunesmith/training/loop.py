"""The loop: evaluate, step, evaluate, save, until the plan is done or somebody asks for the end.

Yields what happens and knows nothing of terminals. Everything it needs to continue stands in `Progress` and in
the checkpoint made from it; the data position is `progress.step`.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import torch

from tunesmith.config import GenerateConfig
from tunesmith.data.batches import Batch, TrainingOrder
from tunesmith.data.corpus import Corpus
from tunesmith.data.dealing import MicroBatchShape
from tunesmith.data.origins import Origins
from tunesmith.data.read_ahead import read_ahead
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import DoesNotFitError, UserError
from tunesmith.evaluation.perplexity import Evaluation, evaluate_split
from tunesmith.generation.generate import GeneratedText, write_texts
from tunesmith.generation.sampling import SamplingRules
from tunesmith.machine import peak_memory_bytes
from tunesmith.model.adapters import load_adapter
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.recomputation import next_recomputation, recompute
from tunesmith.model.weights import read_into
from tunesmith.out_of_memory import in_pieces
from tunesmith.training.bad_numbers import BadStepWatch
from tunesmith.training.checkpoint import ADAPTER, CheckpointWriter
from tunesmith.training.disk_space import has_room, no_room
from tunesmith.training.events import (
    Ended,
    Evaluated,
    Event,
    LossSpiked,
    Sampled,
    SaveFailed,
    Shrunk,
    Stepped,
    TrainResult,
)
from tunesmith.training.memory_lesson import MemoryLesson
from tunesmith.training.plan import TrainPlan
from tunesmith.training.progress import Progress
from tunesmith.training.publish import Publisher
from tunesmith.training.recovery import Recovery
from tunesmith.training.run import RunFolder
from tunesmith.training.saver import Saver
from tunesmith.training.schedule import learning_rate_at
from tunesmith.training.snapshot import ModelCopy, copy_model, fits_memory, state_bytes, take_snapshot
from tunesmith.training.spikes import usual_loss_if_spike
from tunesmith.training.spill import SpillWatch, swaps_silently
from tunesmith.training.step import StepResult, fresh_scaler, no_step, train_step

SMALLEST_SCALE = 1.0
"""Of the loss in fp16; gradients that overflow below it need another arithmetic."""
SAMPLE_TOKENS = 64
"""Longest text of the samples before and after."""
SAMPLE_RULES = SamplingRules(
    temperature=GenerateConfig.temperature[0], top_k=GenerateConfig.top_k, top_p=GenerateConfig.top_p
)


@dataclass
class TrainingLoop:
    """A run that is ready to go.

    Attributes:
        model: in fp32 on its device.
        optimizer: of its parameters.
        scaler: enabled for fp16 only.
        plan: what to do.
        corpus: to learn from and to measure on.
        tokenizer: the model's own.
        run: where everything is written.
        publisher: puts the best model into the run folder.
        checkpoints: writes them.
        progress: how far the run is.
        prompts: continued before and after.
        keep_bytes: for checkpoints on disk; None keeps what a resume can need.
        origins: to name samples by file and line.
        reload: brings everything back to the last good checkpoint, or to the beginning.
        stop: asked after every step; ends the run by saying why.
        lesson: what this run can teach about memory; None where it goes on with another's plan.
    """

    model: GPT2
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    plan: TrainPlan
    corpus: Corpus
    tokenizer: TextTokenizer
    run: RunFolder
    publisher: Publisher
    checkpoints: CheckpointWriter
    progress: Progress
    prompts: list[str]
    keep_bytes: float | None
    origins: Origins
    reload: Callable[[GPT2, torch.optim.Optimizer, torch.amp.GradScaler], Progress]
    stop: Callable[[], str]
    lesson: MemoryLesson | None

    def __post_init__(self) -> None:
        self._saver = Saver()
        self._copied: ModelCopy | None = None
        self._watch = BadStepWatch()
        self._spill = SpillWatch(swaps_silently(self.model.head_VC.device))
        self._stopped_by = ""

    def events(self) -> Iterator[Event]:
        """Run to the end, or to the first step after which `stop` says so."""
        plan, progress = self.plan, self.progress
        order = TrainingOrder(
            self.corpus.train,
            context_tokens=plan.context_tokens,
            shape=MicroBatchShape(plan.steps_per_epoch, plan.micro_batches_per_step, plan.tokens_per_micro_batch),
            constant_size=plan.constant_size,
            seed=plan.seed,
        )
        started_s = time.perf_counter() - progress.elapsed_s
        if math.isnan(progress.base_perplexity):
            evaluation = self._evaluate()
            if not math.isfinite(evaluation.nats_per_token):
                raise UserError(
                    "the model computes no numbers (NaN or infinity) even before training",
                    hint="its weights are damaged: get the model again; or try --precision fp32",
                )
            progress.base_perplexity = evaluation.perplexity
            yield Evaluated(0, 0.0, evaluation.nats_per_token, evaluation.perplexity, is_best=False)
            yield Sampled(0, self._write_samples(self.model))
        recovery = Recovery(
            self.model,
            order,
            self.origins,
            self._back_to_last_good,
            f"lower --learning-rate (now {plan.learning_rate:g}) or use --precision fp32, in another --out; the best "
            f"model before it stands in {self.run.path}",
        )
        with self._saver:
            if progress.step == 0:
                self._save()  # something to come back to from the first step on
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
        for made_in, micro_batches in steps:
            self._stopped_by = self.stop()
            if self._stopped_by:
                return False
            step_started_s = time.perf_counter()
            result = yield from self._step(order, micro_batches, made_in)
            progress.step += 1
            finished = progress.step == plan.steps
            intervals = (plan.log_every_steps, plan.eval_every_steps, plan.save_every_steps)
            self._watch.see(progress.step, result.is_bad)
            bad = self._watch.bad_steps(wait=finished or any(progress.step % every == 0 for every in intervals))
            if bad or self._scale_is_used_up():
                yield from self._recovered(recovery, bad[0] if bad else progress.step)
                return True
            progress.tokens += result.tokens
            if result.tokens and (progress.step % plan.log_every_steps == 0 or finished):
                stepped = self._read(result, step_started_s)  # host sync: the only one of an ordinary step
                progress.training_s += time.perf_counter() - step_started_s
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
                yield self._evaluate_and_publish()
            progress.elapsed_s = time.perf_counter() - started_s
            if progress.step % plan.save_every_steps == 0 or finished:
                self._save()
            yield from self._saver.outcomes()
        return False

    def _recovered(self, recovery: Recovery, step: int) -> Iterator[Event]:
        """Do something about a step that went wrong; `progress` says afterwards where to go on."""
        before = self.progress.step
        self.progress = yield from recovery.recover(step, self.progress)
        self._watch.forget()
        if self.progress.precision:
            self.scaler = torch.amp.GradScaler(self.model.head_VC.device.type, enabled=False)
        if self.progress.step < before - 1:
            self.run.forget_after(self.progress.step, but=("bad_numbers",))

    def _back_to_last_good(self) -> Progress:
        self._saver.wait()
        return self.reload(self.model, self.optimizer, self.scaler)

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
        """One update; in smaller pieces where memory runs out, and in as small ones from then on."""
        if not micro_batches:
            return no_step(self.model)
        progress, first_in = self.progress, self.progress.pieces
        first_recompute, most = progress.recompute, made_in * max(len(batch.offsets) - 1 for batch in micro_batches)

        def attempt(pieces: int) -> StepResult:
            if (pieces, progress.recompute) != (first_in, first_recompute):  # nothing is left of the attempt before
                self.optimizer.zero_grad(set_to_none=True)
                self.scaler = fresh_scaler(self.scaler, self.model.head_VC.device)
            return train_step(
                self.model,
                self.optimizer,
                micro_batches if pieces == made_in else order.batches(progress.step, pieces, progress.left_out),
                learning_rate=self._learning_rate(),
                max_grad_norm=self.plan.max_grad_norm,
                scaler=self.scaler,
            )

        while True:
            try:
                result, progress.pieces = in_pieces(
                    attempt,
                    pieces=progress.pieces,
                    most=max(most, progress.pieces),
                    what=f"a window of {micro_batches[0].longest:,} tokens",
                    hint=f"everything up to step {progress.step:,} is saved: free memory and continue with tunesmith "
                    f"train --resume --out {self.run.path}; or train anew with a shorter --context-tokens or a smaller "
                    "--model",
                )
                break
            except DoesNotFitError:
                more = next_recomputation(progress.recompute)
                if more is None:
                    self._save()
                    yield from self._wait_for_saver()
                    raise
            progress.pieces, progress.recompute = max(most, progress.pieces), more
            recompute(self.model, more)
        if (progress.pieces, progress.recompute) != (first_in, first_recompute):
            yield self._shrunk(order, progress.step, was_slow=False)
        return result

    def _shrunk(self, order: TrainingOrder, step: int, *, was_slow: bool) -> Shrunk:
        smaller = order.batches(step, self.progress.pieces, self.progress.left_out)
        tokens = max((batch.n_tokens for batch in smaller), default=0)
        return Shrunk(step + 1, tokens, len(smaller), self.progress.recompute, was_slow)

    def _ending(self, started_s: float) -> Iterator[Event]:
        progress = self.progress
        interrupted = progress.step < self.plan.steps
        if interrupted:
            self._save()
        yield from self._wait_for_saver()
        if not interrupted:
            if progress.best_step != progress.step:
                self._take_published()  # nothing is learned any more, and there may be no room for a second model
            yield Sampled(progress.best_step, self._write_samples(self.model), is_final=True)
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

    def _read(self, result: StepResult, step_started_s: float) -> Stepped:
        progress, plan = self.progress, self.plan
        loss = float(result.nats) / result.tokens
        seconds_per_step = (progress.training_s + time.perf_counter() - step_started_s) / progress.step
        return Stepped(
            step=progress.step,
            epoch=progress.step / plan.steps_per_epoch,
            loss_nats_per_token=loss,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            grad_norm=float(result.grad_norm),
            tokens=progress.tokens,
            tokens_per_s=progress.tokens / (seconds_per_step * progress.step),
            peak_memory_bytes=peak_memory_bytes(self.model.head_VC.device),
            eta_s=seconds_per_step * (plan.steps - progress.step),
        )

    def _tokens_per_s(self) -> float:
        return self.progress.tokens / self.progress.training_s if self.progress.training_s else 0.0

    def _evaluate(self) -> Evaluation:
        return evaluate_split(
            self.model,
            self.corpus.validation,
            context_tokens=self.plan.context_tokens,
            tokens_per_batch=self.plan.tokens_per_evaluation_batch,
        )

    def _evaluate_and_publish(self) -> Evaluated:
        progress = self.progress
        evaluation = self._evaluate()
        is_best = evaluation.perplexity < progress.best_perplexity
        if is_best:
            progress.best_perplexity, progress.best_step = evaluation.perplexity, progress.step
            copied, then = self._copy_of_model(), replace(progress)
            self._saver.publish(progress.step, lambda: self.publisher.publish(copied, then))
        epoch = progress.step / self.plan.steps_per_epoch
        return Evaluated(progress.step, epoch, evaluation.nats_per_token, evaluation.perplexity, is_best)

    def _save(self) -> None:
        """Have a checkpoint written; training waits for the copy only, unless memory is too short for one."""
        folder = self.run.checkpoint(self.progress.step)
        snapshot = take_snapshot(self.model, self.optimizer, self.scaler, self.progress, self._copy_of_model())

        def write() -> None:
            if not has_room(self.run.path, snapshot.nbytes):
                self.run.drop_old_checkpoints(keep_bytes=0)  # all but the newest
                if not has_room(self.run.path, snapshot.nbytes):
                    raise no_room(folder)
            self.checkpoints.write(snapshot, folder)
            self.run.drop_old_checkpoints(self.keep_bytes)

        self._saver.save(self.progress.step, folder, write)
        if not fits_memory(sum(state_bytes(self.model, self.optimizer))):
            self._saver.wait()

    def _copy_of_model(self) -> ModelCopy:
        """One for all that is written of a step; what was written of earlier ones has to be done by then."""
        if self._copied is None or self._copied.step != self.progress.step:
            self._copied = None
            self._saver.wait()
            self._copied = copy_model(self.model, self.optimizer, self.progress.step)
        return self._copied

    def _wait_for_saver(self) -> Iterator[Event]:
        """Until everything is on disk.

        Raises:
            UserError: if it cannot be.
        """
        self._saver.wait()
        self._copied = None
        reasons = []
        for outcome in self._saver.outcomes():
            reasons += [outcome.reason] if isinstance(outcome, SaveFailed) else []
            yield outcome
        if self._saver.failed:
            kept = self.run.checkpoints()
            raise UserError(
                f"step {self.progress.step:,} could not be saved: {reasons[-1] if reasons else 'the disk is full'}",
                hint=f"make room, then continue from {kept[-1].name if kept else 'the beginning'}: "
                f"tunesmith train --resume --out {self.run.path}",
            )
        self.run.flush()

    def _take_published(self) -> None:
        if self.plan.lora is None:
            read_into(self.model, self.run.path)
        else:
            load_adapter(self.model, self.run.path / ADAPTER)

    def _write_samples(self, model: GPT2) -> list[GeneratedText]:
        seeds = [self.plan.seed + number for number in range(len(self.prompts))]
        return write_texts(
            model, self.tokenizer, self.prompts, seeds=seeds, rules=SAMPLE_RULES, max_new_tokens=SAMPLE_TOKENS
        )
