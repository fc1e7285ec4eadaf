"""What torch computed when it was tried: cuDNN, matrix products, training steps."""

from collections.abc import Iterator

from tunesmith.diagnostics.matcher import best_match
from tunesmith.doctor.check import Check, Remedy
from tunesmith.doctor.facts import Facts, StepFacts, TorchFacts
from tunesmith.doctor.remedies import install_torch
from tunesmith.messages.catalogue import say
from tunesmith.utils.device import NATIVE_BF16_CAPABILITY

LARGEST_ERROR = {"float32": 2e-3, "bfloat16": 2e-2, "float16": 4e-3}
"""Of a product of 256 by 256 normal numbers, rounding of inputs left out; TF32 rounds fp32 to 10 bits."""
LOSS_LEEWAY = 0.02
"""Between the loss in 16 bits on a card and in fp32 on the processor."""


def check_arithmetic(facts: Facts) -> Iterator[Check]:
    """Nothing where torch was not tried or cannot be imported."""
    torch = facts.torch
    if not torch.was_tried or not torch.version or (torch.error and torch.stage == "import"):
        return
    if torch.device is not None:
        yield from _cudnn(facts)
        yield _precision(facts)
    yield from _products(facts)
    if torch.step is not None:
        yield _step(facts, torch.step)
    if torch.error:
        yield _stopped(facts, torch)


def _cudnn(facts: Facts) -> Iterator[Check]:
    torch = facts.torch
    if torch.cudnn_error:
        other = facts.cuda_on_library_path
        found = say("it does not run: {error}", error=torch.cudnn_error.splitlines()[0])
        if other:
            found += say("; LD_LIBRARY_PATH names another one in {folder}", folder=other[0])
        yield Check("cudnn", "fail", found, Remedy("unset LD_LIBRARY_PATH") if other else install_torch(facts))
    elif torch.cudnn is None:
        yield Check("cudnn", "warn", say("this build of torch has none"), install_torch(facts))
    else:
        version = f"{torch.cudnn // 10000}.{torch.cudnn // 100 % 100}.{torch.cudnn % 100}"
        yield Check("cudnn", "ok", say("{version} loads and runs", version=version))


def _precision(facts: Facts) -> Check:
    assert facts.torch.device is not None
    capability = facts.torch.device.capability
    shown = f"{capability[0]}.{capability[1]}"
    if capability >= NATIVE_BF16_CAPABILITY:
        return Check("bf16", "ok", say("compute capability {shown} multiplies bf16 natively", shown=shown))
    if capability >= (7, 0):
        return Check("bf16", "ok", say("compute capability {shown} has fp16 tensor cores: fp16 is taken", shown=shown))
    return Check(
        "bf16", "warn", say("compute capability {shown} has no tensor cores: fp16 saves memory, not time", shown=shown)
    )


def _products(facts: Facts) -> Iterator[Check]:
    for product in facts.torch.products:
        name = f"matmul {product.dtype}"
        if product.relative_error is None:
            error = product.error or say("the result is no number (NaN or infinity)")
            yield Check(name, "fail", error, _known_fix(facts, error))
        elif product.relative_error > LARGEST_ERROR.get(product.dtype, 0.0):
            yield Check(
                name,
                "fail",
                say("wrong by {error:.1e}: the device computes wrongly", error=product.relative_error),
                Remedy(say("undo overclocking, look at its temperature, try another driver; the card may be broken")),
            )
        else:
            yield Check(name, "ok", say("right to {error:.0e}", error=product.relative_error))


def _step(facts: Facts, step: StepFacts) -> Check:
    if step.before is None or step.after is None or step.expected is None:
        error = step.error or say("the result is no number (NaN or infinity)")
        return Check("training step", "fail", error, _known_fix(facts, error))
    is_as_expected = abs(step.before - step.expected) <= LOSS_LEEWAY * step.expected
    if not is_as_expected or not step.after < step.before:
        return Check(
            "training step",
            "fail",
            say(
                "the loss was {before:.3f} and then {after:.3f}; right were {expected:.3f}, and then less",
                before=step.before,
                after=step.after,
                expected=step.expected,
            ),
            install_torch(facts),
        )
    found = say(
        "the loss fell from {before:.2f} to {after:.2f} nats per token, as it should",
        before=step.before,
        after=step.after,
    )
    return Check("training step", "ok", found)


def _stopped(facts: Facts, torch: TorchFacts) -> Check:
    found = say("torch stopped while it tried {stage}: {error}", stage=torch.stage, error=torch.error)
    return Check(torch.stage, "fail", found, _known_fix(facts, torch.error))


def _known_fix(facts: Facts, error: str) -> Remedy:
    known = best_match(error)
    return Remedy(say(known.rule.fix)) if known else install_torch(facts)
