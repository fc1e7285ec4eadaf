"""The installed torch: is it complete, is it the build for this GPU and driver, and does it compute right?"""

from collections.abc import Iterator

from tunesmith.diagnostics.matcher import best_match
from tunesmith.doctor.facts import DeviceFacts, Facts, StepFacts
from tunesmith.doctor.fixes import (
    Check,
    Fix,
    has_code_for,
    install_torch,
    major,
    min_driver,
    unset_variable,
    update_driver,
)
from tunesmith.i18n import say
from tunesmith.utils.device import NATIVE_BF16_CAPABILITY

HIDING_VALUES = ("", "-1", "none", "NoDevFiles")
"""Of CUDA_VISIBLE_DEVICES: they hide every GPU."""
MAX_ERROR = {"float32": 2e-3, "bfloat16": 2e-2, "float16": 4e-3}
"""Of a product of 256 by 256 normal numbers, without the rounding of inputs; TF32 rounds fp32 to 10 bits."""
LOSS_TOLERANCE = 0.02
"""Between the loss in 16 bits on a GPU and in fp32 on the CPU."""


def check_torch(facts: Facts) -> Iterator[Check]:
    """From installed to seeing the GPU."""
    torch = facts.torch
    if not torch.version:
        yield Check("torch", "fail", say("it is not installed"), install_torch(facts))
        return
    if torch.error and torch.stage == "import":
        yield _broken(facts)
        return
    package = next((package for package in facts.packages if package.name == "torch"), None)
    if package and not package.fits:
        finding = say("{version} was not tested ({wanted} was)", version=torch.version, wanted=package.required)
        yield Check("torch", "warn", finding, install_torch(facts))
    else:
        yield Check("torch", "ok", torch.version)
    yield from _build(facts)


def _broken(facts: Facts) -> Check:
    torch = facts.torch
    match = best_match(torch.error)
    finding = say("{version} cannot be imported: {error}", version=torch.version, error=torch.error)
    if match and match.rule.name != "torch-missing":
        finding += f" ({say(match.rule.cause)})"
    if match and match.rule.name == "windows-runtime-missing":
        return Check("torch", "fail", finding, Fix(say(match.rule.fix)))
    return Check("torch", "fail", finding, install_torch(facts))


def _build(facts: Facts) -> Iterator[Check]:
    """Build against driver, and the result of both."""
    torch, driver = facts.torch, facts.driver
    if not facts.has_gpu:
        yield Check("torch build", "ok", _build_name(facts))
    elif torch.is_rocm:
        yield Check("torch build", "fail", say("it is built for AMD's GPUs (ROCm)"), install_torch(facts))
    elif not torch.cuda:
        finding = say("{version} is a CPU-only build, and this machine has a GPU", version=torch.version)
        yield Check("torch build", "fail", finding, install_torch(facts))
    elif driver.version and major(driver.version) < min_driver(torch.cuda):
        yield _driver_too_old(facts)
    else:
        yield Check("torch build", "ok", _build_name(facts))
        if torch.was_tried:
            yield _cuda(facts)
        elif _is_hidden(facts):
            yield _hidden(facts)


def _build_name(facts: Facts) -> str:
    torch = facts.torch
    if torch.is_rocm:
        return say("for AMD's GPUs (ROCm)")
    return f"CUDA {torch.cuda}" if torch.cuda else say("for the CPU only")


def _driver_too_old(facts: Facts) -> Check:
    finding = say(
        "CUDA {cuda} needs driver {least} or newer, and {version} is installed",
        cuda=facts.torch.cuda,
        least=min_driver(facts.torch.cuda),
        version=facts.driver.version,
    )
    older_build = install_torch(facts)
    fix = older_build.text
    if older_build.command or "--index-url" in fix:
        fix = say("{driver}; or install an older build: {build}", driver=update_driver(facts).text, build=fix)
    return Check("torch build", "fail", finding, Fix(fix))


def _cuda(facts: Facts) -> Check:
    device = facts.torch.device
    if device is None:
        if _is_hidden(facts):
            return _hidden(facts)
        why = facts.torch.warning or facts.torch.error or say("torch.cuda.is_available() is False")
        match = best_match(why)
        fix = Fix(say(match.rule.fix)) if match else update_driver(facts)
        return Check("cuda", "fail", say("torch does not see the GPU: {why}", why=why), fix)
    if not has_code_for(device.architectures, device.capability):
        finding = say(
            "{name} has compute capability {capability}, and this build has code for {architectures} only",
            name=device.name,
            capability=_dotted(device),
            architectures=", ".join(device.architectures),
        )
        return Check("cuda", "fail", finding, install_torch(facts))
    finding = say("torch sees {name}, compute capability {capability}", name=device.name, capability=_dotted(device))
    return Check("cuda", "ok", finding)


def _dotted(device: DeviceFacts) -> str:
    return ".".join(map(str, device.capability))


def _is_hidden(facts: Facts) -> bool:
    return facts.visible_devices is not None and facts.visible_devices.strip() in HIDING_VALUES


def _hidden(facts: Facts) -> Check:
    finding = say('CUDA_VISIBLE_DEVICES is "{value}": every GPU is hidden', value=str(facts.visible_devices))
    return Check("cuda", "fail", finding, Fix(unset_variable(facts.system, "CUDA_VISIBLE_DEVICES")))


def check_arithmetic(facts: Facts) -> Iterator[Check]:
    """Results of cuDNN, matrix products and training steps, where torch was tried and can be imported."""
    torch = facts.torch
    if not torch.was_tried or not torch.version or (torch.error and torch.stage == "import"):
        return
    if torch.device is not None:
        yield _cudnn(facts)
        yield _precision(torch.device)
    yield from _products(facts)
    if torch.step is not None:
        yield _step(facts, torch.step)
    if torch.error:
        finding = say("torch stopped while it tried {stage}: {error}", stage=torch.stage, error=torch.error)
        yield Check(torch.stage, "fail", finding, _known_fix(facts, torch.error))


def _cudnn(facts: Facts) -> Check:
    torch = facts.torch
    if torch.cudnn_error:
        finding = say("it does not run: {error}", error=torch.cudnn_error.splitlines()[0])
        if not facts.cuda_on_library_path:
            return Check("cudnn", "fail", finding, install_torch(facts))
        finding += say("; LD_LIBRARY_PATH names another one in {folder}", folder=facts.cuda_on_library_path[0])
        return Check("cudnn", "fail", finding, Fix("unset LD_LIBRARY_PATH"))
    if torch.cudnn is None:
        return Check("cudnn", "warn", say("this build of torch has none"), install_torch(facts))
    version = f"{torch.cudnn // 10000}.{torch.cudnn // 100 % 100}.{torch.cudnn % 100}"
    return Check("cudnn", "ok", say("{version} loads and runs", version=version))


def _precision(device: DeviceFacts) -> Check:
    shown = _dotted(device)
    if device.capability >= NATIVE_BF16_CAPABILITY:
        return Check("bf16", "ok", say("compute capability {shown} multiplies bf16 natively", shown=shown))
    if device.capability >= (7, 0):
        return Check("bf16", "ok", say("compute capability {shown} has fp16 tensor cores: fp16 is used", shown=shown))
    finding = say("compute capability {shown} has no tensor cores: fp16 saves memory, not time", shown=shown)
    return Check("bf16", "warn", finding)


def _products(facts: Facts) -> Iterator[Check]:
    for product in facts.torch.products:
        name = f"matmul {product.dtype}"
        if product.relative_error is None:
            error = product.error or say("the result is NaN or Inf")
            yield Check(name, "fail", error, _known_fix(facts, error))
        elif product.relative_error > MAX_ERROR.get(product.dtype, 0.0):
            finding = say("wrong by {error:.1e}: the device computes wrongly", error=product.relative_error)
            fix = say("undo overclocking, check its temperature, try another driver; the GPU may be broken")
            yield Check(name, "fail", finding, Fix(fix))
        else:
            yield Check(name, "ok", say("right to {error:.0e}", error=product.relative_error))


def _step(facts: Facts, step: StepFacts) -> Check:
    if step.before is None or step.after is None or step.expected is None:
        error = step.error or say("the result is NaN or Inf")
        return Check("training step", "fail", error, _known_fix(facts, error))
    is_as_expected = abs(step.before - step.expected) <= LOSS_TOLERANCE * step.expected
    if not is_as_expected or not step.after < step.before:
        finding = say(
            "the loss was {before:.3f} and then {after:.3f}; expected were {expected:.3f}, and then less",
            before=step.before,
            after=step.after,
            expected=step.expected,
        )
        return Check("training step", "fail", finding, install_torch(facts))
    finding = say(
        "the loss fell from {before:.2f} to {after:.2f} nats per token, as it should",
        before=step.before,
        after=step.after,
    )
    return Check("training step", "ok", finding)


def _known_fix(facts: Facts, error: str) -> Fix:
    match = best_match(error)
    return Fix(say(match.rule.fix)) if match else install_torch(facts)
