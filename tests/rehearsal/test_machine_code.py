"""Triton kernels compiled to machine code for GPUs that are not here: registers, spills, and what comes before what.

A kernel is compiled as it is launched for real sizes: GPT-2's vocabulary, matrices whose size is a multiple of 128.
"""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import tunesmith
from tunesmith.optim.state_format import STATE_FORMATS

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None and os.environ.get("CI") != "true", reason="Triton is not installed"
)

CAPABILITIES = (75, 80, 89, 90, 120)
REGISTERS = 128
SHARED_BYTES = 8192
TRITON_RESERVES_BYTES = 1024
"""Of shared memory, from compute capability 9.0 on."""
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int16: "*i16",
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.float64: "*fp64",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Kernel:
    """A kernel with what it is launched with.

    Attributes:
        module: below `tunesmith`, with the function's name.
        types: of its arguments in their order: a dtype for a tensor, "i32" or "fp32" for a number, "i32 x 16" for one
            that 16 divides.
        constants: by name.
        warps: of a program.
        vectors: whether all that it reads and writes in bulk goes 4 numbers or more at a time.
    """

    module: str
    types: tuple[torch.dtype | str, ...]
    constants: dict[str, Any]
    warps: int = 4
    vectors: bool = True

    def __str__(self) -> str:
        return "-".join(
            [self.module.split(".")[-1], str(self.types[0]).split(".")[-1], *map(str, self.constants.values())]
        )


def loss_kernels() -> Iterator[Kernel]:
    """The cross-entropy of training and of evaluation."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for writes_gradient in (True, False):
            types = (dtype, torch.int64, torch.float32, "i32", "i32 x 16")
            constants = {"WRITES_GRADIENT": writes_gradient, "BLOCK": 4096}
            yield Kernel("model.loss_triton._nats_and_gradient", types, constants, warps=8)


def optimizer_kernels() -> Iterator[Kernel]:
    """Every layout of weights and moments, with a verdict and, where gradients are used up at once, without."""
    for plan in STATE_FORMATS.values():
        if plan.moment_bits == 32:
            continue
        weight = torch.float32 if plan.weights == "fp32" else torch.int16
        gradient = torch.float32 if plan.weights == "fp32" else torch.bfloat16
        moments = (torch.uint8, torch.float32, torch.uint8, torch.float32)
        verdict = torch.float32 if plan.gradients == "held" else "None"
        first, second = (code.levels for code in plan.moments)
        constants = {"WEIGHTS": ("fp32", "split", "bf16").index(plan.weights), "BITS": plan.moment_bits}
        constants |= {"LEVELS_1": first, "LEVELS_2": second, "B": 8, "S": 128}
        remainder = torch.int16 if plan.weights == "split" else weight
        types = (weight, remainder, gradient, *moments, torch.float32, verdict, "i32", *["fp32"] * 8, "i32")
        yield Kernel("optim.low_bit_adamw_triton._update", types, constants)
    types = (torch.int16, torch.int16, torch.float32, "i32 x 16", "i32", "i32")
    yield Kernel("optim.low_bit_adamw_triton._accumulate", types, {"LANES": 1024})


def sampling_kernels() -> Iterator[Kernel]:
    """The choice of tokens; rows of 50,257 logits begin anywhere, so they are read one by one."""
    rules = (torch.float32, torch.bool, torch.int64, torch.float32, torch.float32, torch.float64)
    types = (torch.float32, torch.float32, *rules, torch.int64, "i32", "i32", "i32 x 16")
    yield Kernel("generation.sampling_triton._sample", types, {"BLOCK": 4096}, warps=16, vectors=False)


KERNELS = [*loss_kernels(), *optimizer_kernels(), *sampling_kernels()]


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled kernels are kept while these tests run."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(autouse=True)
def _compiled_anew(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes from the user's cache of kernels, and nothing is compiled twice."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(own_cache))


def compiled(kernel: Kernel, capability: int) -> Any:
    """For GPUs of a compute capability."""
    from importlib import import_module

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name = kernel.module.rsplit(".", 1)
    function = getattr(import_module(f"tunesmith.{module}"), name)
    arguments = [argument for argument in function.arg_names if argument not in kernel.constants]
    types = dict(zip(arguments, kernel.types, strict=True))
    constants = {**kernel.constants, **{argument: None for argument, of in types.items() if of == "None"}}
    signature = {
        argument: "constexpr" if argument in constants else POINTERS.get(types[argument]) or types[argument].split()[0]
        for argument in function.arg_names
    }
    divisible = [argument for argument, of in types.items() if of in POINTERS or str(of).endswith("x 16")]
    places = {argument: (place,) for place, argument in enumerate(function.arg_names)}
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={places[argument]: value for argument, value in constants.items()},
        attrs={places[argument]: [["tt.divisibility", 16]] for argument in divisible},
    )
    options = {"num_warps": kernel.warps, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(code: Any, tmp_path: Path) -> dict[str, int]:
    """What NVIDIA's tool says that a kernel uses: REG, STACK, SHARED, LOCAL."""
    import triton

    path = tmp_path / "kernel.cubin"
    path.write_bytes(code.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    listed = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", listed)}


def order(ptx: str) -> str:
    """Barriers (B), loads and stores of global memory: one by one (l, s), or several numbers at a time (L, S)."""
    found = []
    for line in ptx.splitlines():
        access = re.search(r"\b(ld|st)\.global(\.\w+)*", line)
        if "bar.sync" in line or "barrier.sync" in line:
            found.append("B")
        elif access:
            letter = "l" if access[1] == "ld" else "s"
            found.append(letter.upper() if re.search(r"\.v[248]\b", access[0]) else letter)
    return "".join(found)


def loops(lines: list[str]) -> Iterator[tuple[int, int]]:
    """First and last line of each: a label, and a branch back to it."""
    starts = ((number, re.match(r"\s*(\$\w+):", line)) for number, line in enumerate(lines))
    labels = {start[1]: number for number, start in starts if start}
    for number, line in enumerate(lines):
        branch = re.search(r"\bbra(?:\.uni)?\s+(\$\w+)", line)
        if branch and labels[branch[1]] < number:
            yield labels[branch[1]], number


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_kernel_spills(capability: int, tmp_path: Path) -> None:
    """Neither local memory nor stack, at most 128 registers, and little shared memory."""
    for kernel in KERNELS:
        code = compiled(kernel, capability)
        used = resources(code, tmp_path)
        assert set(used) == {"REG", "STACK", "SHARED", "LOCAL"}
        assert used["STACK"] == used["LOCAL"] == 0, kernel
        assert used["REG"] <= REGISTERS, kernel
        assert used["REG"] * kernel.warps * 32 <= 65_536, kernel
        assert used["SHARED"] <= TRITON_RESERVES_BYTES, kernel
        assert code.metadata.shared <= SHARED_BYTES, kernel
        if kernel.vectors:
            assert re.search("[LS]", order(code.asm["ptx"])), kernel


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_loss_reads_its_target_before_anything_is_written(capability: int) -> None:
    """Before the first barrier: another warp may be far ahead, and writes the gradient over the logits.

    Rows are read and written 16 bytes at a time; what is read one by one are the target and its logit.
    """
    kernel = next(kernel for kernel in KERNELS if kernel.types[0] == torch.bfloat16)
    ptx = compiled(kernel, capability).asm["ptx"]
    found = order(ptx)
    before, after = found[: found.index("B")], found[found.index("B") :]
    assert before.count("l") == 2
    assert "s" not in before.lower()
    assert "l" not in after
    assert after.count("s") == 1  # the loss
    assert before.count("L") == after.count("L") == after.count("S") == 2  # 16 numbers a thread, 8 at a time
    assert "s" not in found[: found.rindex("B")].lower()  # all warps have read what they need of the row as it was
    lines = ptx.splitlines()
    for start, end in loops(lines):
        inside = order("\n".join(lines[start:end])).lower()
        assert not {"b", "s"} <= set(inside)  # nor does a loop lead from a store back to a barrier


def test_what_sampling_writes_is_there_before_it_is_read() -> None:
    """A barrier between the scratch row's stores and its loads: other warps than the writing one read it."""
    kernel = next(sampling_kernels())
    found = order(compiled(kernel, 89).asm["ptx"])
    assert re.search("SB.*L", found)
    assert not re.search("S[lL]", found)


PROBES = {"backends.store"}
"""Writes one number, to find out whether Triton works at all."""


def test_every_kernel_is_listed() -> None:
    """What is launched somewhere in the package is compiled here."""
    launched = set()
    for path in Path(tunesmith.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        kernels = {node.name for node in functions if any("jit" in ast.unparse(it) for it in node.decorator_list)}
        called = {
            call.func.id
            for node in functions
            if node.name in kernels
            for call in ast.walk(node)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        }
        room = ".".join(path.relative_to(Path(tunesmith.__file__).parent).with_suffix("").parts)
        launched |= {f"{room}.{name}" for name in kernels - called}
    assert launched - PROBES == {kernel.module for kernel in KERNELS}


def test_every_launch_pins_what_may_change() -> None:
    """FP fusion, whose default differs between versions of Triton, and the GPU that the tensors are on."""
    launches = 0
    for path in Path(tunesmith.__file__).parent.rglob("*.py"):
        source = path.read_text("utf-8")
        if "@triton.jit" not in source or path.name == "backends.py":
            continue
        tree = ast.parse(source)
        guarded = {
            call
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and "torch.cuda.device_of" in ast.unparse(block.items[0])
            for call in ast.walk(block)
        }
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Subscript):
                launches += 1
                assert "enable_fp_fusion" in {keyword.arg for keyword in call.keywords}, path
                assert call in guarded, path
    assert launches == len({kernel.module for kernel in KERNELS})
