"""Cards that fail, are reset or compute wrongly, and what a program does wrongly on a card."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "index-outside-of-table",
        (
            r"srcIndex < srcSelectDimSize",
            r"index out of range in self",
            r"t >= 0 && t < n_classes",
            r"indexSelectLargeIndex",
            r"index out of bounds.{0,40}(assert|failed)",
            r"target \d+ is out of bounds",
            r"tried to access index \d+ out of table",
            r"indices\[[\d,]+\] = \d+ is not in \[0, \d+\)",
            r"index out of bounds'? failed",
            r"&& \w+ < n_classes",
            r"index \d+ is out of bounds for (dimension|axis)",
            r"index_select.{0,20}index(ing)? out of (range|bounds?)",
            r"indexSelect(Small|Large)Index|vectorized_gather_kernel",
            r"target -?\d+ is out of bounds",
            r"token.{0,3}ids? .{0,40}(out of (range|vocab|bounds)|exceeds? .{0,12}vocab|outside)",
            r"ind(ex)? < ind_dim_size",
            r"index out of range: tried to access",
        ),
        cause="a token id or a position lies outside of the model's tables: a text longer than the context, or another "
        "model's tokenizer",
        fix="tunesmith train cuts nothing and divides long texts itself; in a script of your own: at most 1,024 tokens, and the "
        "tokenizer of the same model",
        examples=(
            "IndexError: index out of range in self",
            "/pytorch/aten/src/ATen/native/cuda/Indexing.cu:1292: indexSelectLargeIndex: block: [120,0,0], thread: [64,0,0] "
            "Assertion `srcIndex < srcSelectDimSize` failed.",
            "Assertion `t >= 0 && t < n_classes` failed.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "device-side-assert",
        (
            r"device-side assert triggered",
            r"cudaErrorAssert",
            r"(?<!enable[ ])device-side assert",
            r"CUDA_ERROR_ASSERT|hipErrorAssert",
            r"cuda runtime error \((59|710)\)",
        ),
        cause="code on the card found an impossible value, usually an index that is too large; the line that is named is not "
        "the cause",
        fix="run it once on the processor, which names the line: --device cpu",
        examples=(
            "RuntimeError: CUDA error: device-side assert triggered. CUDA kernel errors might be asynchronously reported at some "
            "other API call, so the stacktrace below might be incorrect.",
        ),
    ),
    Symptom(
        "card-fell-off",
        (
            r"gpu is lost",
            r"fallen off the bus",
            r"unable to determine the device handle",
            r"\bxid\b.{0,40}\b79\b",
            r"uncorrectable ecc error",
            r"cudaErrorECCUncorrectable",
            r"gpu (is|was) lost|has fallen off|GPU_IS_LOST",
            r"RmInitAdapter failed|rm_init_adapter failed",
            r"gpu requires (a )?reset|gpu is (no longer|not) accessible|reboot the system to recover this gpu",
            r"CUDA_ERROR_ECC_UNCORRECTABLE|(double[- ]bit|uncorrectable) ecc",
        ),
        cause="the card stopped answering the machine: heat, power, a loose connection, or a broken card",
        fix="switch the machine off and on, check the power cables and the temperature (nvidia-smi -q -d TEMPERATURE); "
        "then tunesmith train --resume --out DIR",
        examples=(
            "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost. Reboot the system to recover this GPU",
            "NVRM: Xid (PCI:0000:0b:00): 79, pid=2145, GPU has fallen off the bus.",
            "RuntimeError: CUDA error: uncorrectable ECC error encountered",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "card-reports-fault",
        (r"\bnvrm\b.{0,60}[:,] ?\d{1,3}, (pid|name|ch)\b",),
        cause="the driver reports a fault of the card (Xid): a program that crashed on it, the driver itself, power, heat, or a defect",
        fix="sudo dmesg | grep -i xid shows the number, which NVIDIA's list of Xid errors explains; restart, update the driver, undo "
        "overclocking; then tunesmith train --resume --out DIR",
        examples=(
            "NVRM: Xid (PCI:0000:01:00): 109, pid=4124, name=python, Ch 00000028, errorString CTX SWITCH TIMEOUT",
        ),
        surely=(
            r"NVRM:? .{0,20}\bxid\b",
            r"\bxid\b ?\(PCI",
        ),
        perhaps=(
            r"\b(gpu|nvidia|nvrm|cuda)\b.{0,60}\bxid\b|\bxid\b.{0,60}\b(gpu|nvidia|pci)\b|\bxid\W{0,3}(error|code)s?\W{0,3}\d{1,3}\b",
        ),
    ),
    Symptom(
        "card-too-hot",
        (
            r"(thermal|hw|power brake) slowdown\s*:\s*active",
            r"(gpu|card) .{0,40}(overheat|too hot|thermal (throttl|shutdown))|thermal throttl|temperature .{0,30}(exceed|too high|slowdown)",
            r"(due to|because of) .{0,12}thermal|thermal (violation|limit|trip|event)",
            r"slowdown\s*:\s*active",
            r"\b(gpu|card|nvidia)\b.{0,60}(over-?heat|temperature .{0,30}(critical|limit|exceed|too high)|too hot)",
        ),
        cause="the card is too hot, or its power supply too weak, and slows itself down",
        fix="clean the fans and let air to it; nvidia-smi -q -d TEMPERATURE,PERFORMANCE shows it; a lower limit helps: sudo nvidia-smi -pl 200",
        examples=("            HW Thermal Slowdown                : Active",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "card-was-reset",
        (
            r"launch timed out and was terminated",
            r"cudaErrorLaunchTimeout",
            r"nvlddmkm",
            r"display driver .{0,30}(stopped responding|has recovered)",
            r"CUDA_ERROR_LAUNCH_TIMEOUT|launch timed out|cuda runtime error \((6|702)\)",
            r"VIDEO_TDR|TdrDelay|LiveKernelEvent.{0,20}\b1[14][17]\b",
            r"DXGI_ERROR_DEVICE_(HUNG|REMOVED|RESET)",
            r"(gpu|amdgpu).{0,60}(gpu reset|ring \S+ timeout)",
            r"GPU (timeout|hang) error|CommandBufferCallbackError(Timeout|Hang)|caused gpu (timeout|hang)",
            r"anzeigetreiber .{0,60}(reagiert|wiederhergestellt)|pilote d'affichage .{0,60}(répond|récupér)|видеодрайвер|ディスプレイ ドライバー.{0,40}(応答|回復)|显示器?驱动程序.{0,40}(停止响应|恢复)|디스플레이 드라이버.{0,40}(응답|복구)|controlador de pantalla .{0,60}(responder|recuper)",
        ),
        cause="the system reset the card because it answered too late (Windows: after 2 s)",
        fix="close other programs on the card, undo overclocking; then tunesmith train --resume --out DIR",
        examples=(
            "RuntimeError: CUDA error: the launch timed out and was terminated",
            "Display driver nvlddmkm stopped responding and has successfully recovered.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "card-computed-wrongly",
        (
            r"an illegal memory access was encountered",
            r"unspecified launch failure",
            r"cudaErrorIllegalAddress|CUDA_ERROR_ILLEGAL_ADDRESS|CUDA_ERROR_LAUNCH_FAILED",
            r"cublas runtime error|cublas error",
            r"misaligned address",
            r"an illegal instruction was encountered",
            r"CUBLAS_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|NOT_SUPPORTED|INVALID_VALUE)",
            r"cudaError(LaunchFailure|IllegalInstruction|MisalignedAddress|HardwareStackError|InvalidPc|InvalidAddressSpace)|CUDA_ERROR_(ILLEGAL_INSTRUCTION|MISALIGNED_ADDRESS|INVALID_PC|HARDWARE_STACK_ERROR|INVALID_ADDRESS_SPACE)|hipError(LaunchFailure|IllegalAddress)",
            r"hardware stack error|invalid program counter|warp illegal (address|instruction)|operation not supported on global/shared address space",
            r"cuda (runtime )?error \(?(77|700|715|716|717|718|719)\)?\b",
            r"CUBLAS_STATUS_(MAPPING_ERROR|ARCH_MISMATCH)|CUSOLVER_STATUS_\w+|CURAND_STATUS_\w+|CUFFT_(?!SUCCESS)\w+_ERROR",
            r"memory access fault by gpu|HSA_STATUS_ERROR",
            r"(hip|cuda) error: (an illegal|unspecified|misaligned|invalid (configuration argument|resource handle|argument))",
            r"illegal memory access",
        ),
        cause="a program on the card crashed: an unstable card (overclocking, heat), or an error of a driver or a library",
        fix="undo overclocking, update the driver, then tunesmith train --resume --out DIR; if it comes again: --compile no",
        examples=(
            "RuntimeError: CUDA error: an illegal memory access was encountered",
            "RuntimeError: CUDA error: unspecified launch failure",
            "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        ),
    ),
    Symptom(
        "tensors-on-two-devices",
        (
            r"expected all tensors to be on the same device",
            r"input type \(torch\.cuda\.\S+\) and weight type \(torch\.\S+\) should be the same",
            r"expected object of (device|backend) type cuda but got",
            r"argument #\d+ .{0,40}expected .{0,20}cuda.{0,20}but got .{0,10}cpu",
            r"(to be |be |must be )?on (the )?same device as|must be on the same device|to be on (the )?same device",
            r"either on (the )?'?cpu'? or on the same device",
            r"input type \((torch\.)?(cuda|mps|xpu)\S*\) and (weight|bias) type \((torch\.)?(?!cuda|mps|xpu)\S+\)|input type \(torch\.(?!cuda|mps|xpu)\S+\) and (weight|bias) type \((torch\.)?(cuda|mps|xpu)",
            r"is on (cpu|gpu|cuda\S*|mps\S*),? but (expected|it|they|the)",
            r"expected (device |a )?'?(cuda|cpu|mps)(:\d+)?'? .{0,30}but (got|found) (device )?'?(cpu|cuda|mps)",
            r"placeholder storage has not been allocated on mps|passed cpu tensor to mps",
            r"can't convert (cuda|mps|xpu)\S* (device type )?tensor to numpy",
            r"but found one of them on device",
            r"located on different gpus|device type different (than|from)",
            r"cannot be accessed from triton \(cpu tensor",
            r"found at least two devices|tensor on device \S+ is not on the expected device",
        ),
        cause="a script moved the model to the card and not its input, or the other way round",
        fix="tunesmith does that itself; in a script of your own: inputs.to(model.device)",
        examples=(
            "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "windows-hides-card-from-wsl",
        (
            r"gpu access blocked by the operating system",
            r"dxg.{0,60}(failed|error)",
            r"libcuda\.so\.1 is not a symbolic link",
            r"libdxcore\.so|dxgkio_\w+: ioctl failed|/dev/dxg",
            r"wsl environment detected but no adapters",
            r"/usr/lib/wsl/(lib|drivers)\S*.{0,40}(no such|not found|cannot)",
        ),
        cause="WSL does not get at the card: the driver of Windows or WSL itself is too old",
        fix="update the NVIDIA driver in Windows, then in PowerShell: wsl --update; wsl --shutdown",
        examples=(
            "Failed to initialize NVML: GPU access blocked by the operating system",
            "/sbin/ldconfig.real: /usr/lib/wsl/lib/libcuda.so.1 is not a symbolic link",
        ),
        says=Says.EXACTLY,
    ),
)
