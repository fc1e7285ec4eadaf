"""Cards, drivers, CUDA and cuDNN."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "cpu-only-build",
        (r"torch not compiled with cuda enabled", r"not linked with support for cuda devices"),
        cause="the installed torch is a CPU-only build",
        fix="tunesmith doctor --fix (it names the build of torch for your card and driver)",
        examples=("AssertionError: Torch not compiled with CUDA enabled",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "driver-too-old",
        (
            r"nvidia driver on your system is too old",
            r"driver version is insufficient for cuda runtime",
            r"cudaErrorInsufficientDriver",
            r"requirement error: unsatisfied condition: cuda",
        ),
        cause="the NVIDIA driver is older than the CUDA that torch was built with",
        fix="update the driver (https://www.nvidia.com/drivers), or take an older build of torch: tunesmith doctor --fix",
        examples=(
            "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). "
            "Please update your GPU driver by downloading and installing a new version from the URL",
            "RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime version",
            "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.1, please update your driver to a "
            "newer version, or use an earlier cuda container: unknown",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "driver-missing",
        (
            r"found no nvidia driver on your system",
            r"couldn't communicate with the nvidia driver",
            r"libcuda\.so(\.\d+)?: cannot open shared object",
            r"nvml shared library not found",
            r"nvidia-smi\W{0,3} (is not recognized|command not found|not found)",
            r"could not find nvml|nvml\.dll",
            r"CUDA driver initialization failed",
            r"failed to (initialize|properly shut down) nvml",
            r"NVML_ERROR_(DRIVER_NOT_LOADED|LIBRARY_NOT_FOUND|UNINITIALIZED)|nvml error",
            r"nvidia[- ]driver (is )?not (loaded|found|installed)",
            r"no nvidia (gpu|driver)",
        ),
        cause="there is no NVIDIA driver, or it does not run",
        fix="install the driver (https://www.nvidia.com/drivers) and restart; in WSL install it in Windows only",
        examples=(
            "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a "
            "driver from http://www.nvidia.com/Download/index.aspx",
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
            "driver is installed and running.",
            "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
            "pynvml.NVMLError_LibraryNotFound: NVML Shared Library Not Found",
            "bash: nvidia-smi: command not found",
        ),
    ),
    Symptom(
        "driver-updated-without-restart",
        (
            r"driver/library version mismatch",
            r"RmVersionMismatch",
            r"unsupported display driver / cuda driver combination",
            r"cudaErrorSystemDriverMismatch",
        ),
        cause="the driver was updated while its old version still runs, or two versions of it are installed",
        fix="restart the machine; if it stays, remove every NVIDIA driver package and install one",
        examples=(
            "Failed to initialize NVML: Driver/library version mismatch",
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
            "NumCudaDevices() that might have already set an error? Error 803: system has unsupported display driver / cuda "
            "driver combination",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "card-not-in-build",
        (
            r"found gpu ?\d .{1,60}of cuda capability|m(inimum|aximum) .{0,20}cuda capability supported",
            r"no kernel image is available",
            r"is not compatible with the current pytorch installation",
            r"cudaErrorNoKernelImageForDevice",
            r"supports cuda capabilities sm_",
            r"'?sm_\d+a?'? is not (a recognized processor|defined for|supported)",
            r"unsupported gpu architecture",
            r"(gpu|card|device).{0,60}compute capability.{0,60}(too old|not supported|unsupported|no longer)",
            r"no longer supports? .{0,40}(compute capability|sm_|kepler|maxwell|pascal|volta)",
            r"PyTorch no longer supports this GPU because it is too old",
        ),
        cause="the installed build of torch has no code for this card: the card is newer or older than the build",
        fix="tunesmith doctor --fix (RTX 50 needs a cu128 build or newer, GTX 10 and V100 need cu126)",
        examples=(
            "RuntimeError: CUDA error: no kernel image is available for execution on the device",
            "NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch installation. "
            "The current PyTorch install supports CUDA capabilities sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90.",
            "Found GPU0 GeForce GTX 760 which is of cuda capability 3.0. PyTorch no longer supports this GPU because it is "
            "too old.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "card-not-seen",
        (
            r"no cuda gpus are available",
            r"no cuda-capable device is detected",
            r"cudaErrorNoDevice",
            r"torch\.cuda\.is_available\(\) (is|returns?|should be|== ?)? ?false",
            r"deserialize object on a cuda device but torch\.cuda\.is_available",
            r"no devices were found",
            r"invalid device id|asserterror: invalid device",
        ),
        cause="torch sees no card: none is here, it is hidden (CUDA_VISIBLE_DEVICES), or the driver does not answer",
        fix="tunesmith doctor (it says which of them it is)",
        examples=(
            "RuntimeError: No CUDA GPUs are available",
            "RuntimeError: CUDA error: no CUDA-capable device is detected",
            "RuntimeError: Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False. If you "
            "are running on a CPU-only machine, please use torch.load with map_location=torch.device('cpu')",
            "No devices were found",
        ),
    ),
    Symptom(
        "card-does-not-start",
        (
            r"cuda unknown error|creating MTGP constants failed",
            r"(cuda runtime error|cuda error|THCudaCheck|cudaGetDeviceCount|CUDA_ERROR|cuInit|failed call to cuInit).{0,120}(initialization error|"
            r"not initialized|unknown error|system not yet initialized|not permitted|operation not supported)",
            r"error 802\b|error=802|system not yet initialized",
            r"cannot re-initialize cuda in forked subprocess",
            r"unexpected error from cudaGetDeviceCount",
            r"nvidia_uvm|nvidia-uvm",
        ),
        cause="the driver is here, but CUDA does not start: after standby, in a container without the card's devices, or in a process "
        "that was forked",
        fix="restart the machine (Linux after standby: sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm); containers: --gpus all",
        examples=(
            "UserWarning: CUDA initialization: CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing "
            "env variable CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero.",
            "RuntimeError: cuda runtime error (3) : initialization error at /pytorch/aten/src/THC/THCGeneral.cpp:50",
            "RuntimeError: cuda runtime error (802) : system not yet initialized",
            "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' "
            "start method",
        ),
    ),
    Symptom(
        "card-taken",
        (
            r"cuda-capable device\(?s?\)? (is|are) busy or unavailable",
            r"cudaErrorDevicesUnavailable|CUDA_ERROR_DEVICE_UNAVAILABLE",
        ),
        cause="the card lets nobody in: a program has it for itself (exclusive mode), one that hangs holds it, or (WSL) the driver's "
        "connection broke",
        fix="tunesmith doctor names who holds it; end that program, or nvidia-smi -c 0 (as administrator); WSL: wsl --shutdown",
        examples=("RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "container-without-card",
        (
            r"could not select device driver",
            r"nvidia-container-(cli|runtime|toolkit).{0,120}(error|not found|failed)|failed to create (shim|nvidia) .{0,80}",
            r"unknown or invalid runtime name: nvidia|unknown runtime specified nvidia",
            r"CDI device injection failed|unresolvable CDI devices",
        ),
        cause="the container runtime has no access to the card: NVIDIA's container toolkit is missing or not set up",
        fix="install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker",
        examples=('docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]]',),
    ),
    Symptom(
        "no-such-card",
        (r"invalid device ordinal", r"cudaErrorInvalidDevice\b", r"torch \S+ sees \d+ cuda devices"),
        cause="a card was named by a number that none has; they count from 0",
        fix="use --device cuda:0, and look at what nvidia-smi lists",
        examples=("RuntimeError: CUDA error: invalid device ordinal",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "cuda-libraries-mixed",
        (
            r"lib(cudart|cublas|cublasLt|cufft|curand|cusolver|cusparse|cupti|nccl|nvrtc|nvJitLink|nvToolsExt)\S*\.so\S*: "
            r"(cannot open shared object|undefined symbol)",
            r"undefined symbol: (__nvJitLink|cublas|nccl|cusparse)\w*",
            r"could not load dynamic library 'libcud(art|a)",
            r"libcublas\S* not found",
            r"could not load (dynamic )?library '?\S*(cudart|cublas|cufft|curand|cusolver|cusparse|nvinfer|nvrtc)\S*",
            r"(cudart64|cublas64|cublasLt64|cufft64|nvrtc)\S*\.dll.{0,40}(not found|missing)",
            r"failed to preload|unboundlocalerror.{0,40}cublas_path",
            r"version `?libcud\S+' not found",
        ),
        cause="torch finds no CUDA library of its own version: one is missing, or LD_LIBRARY_PATH names another one",
        fix="unset LD_LIBRARY_PATH; if it stays: tunesmith doctor --fix (installs torch with its libraries anew)",
        examples=(
            "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
            "ImportError: /venv/lib/python3.11/site-packages/torch/lib/../../nvidia/cusparse/lib/libcusparse.so.12: undefined "
            "symbol: __nvJitLinkComplete_12_4, version libnvJitLink.so.12",
            "OSError: libcublas.so.11: cannot open shared object file: No such file or directory",
            "ImportError: undefined symbol: ncclCommRegister",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "cudnn-broken",
        (
            r"libcudnn\S*\.so\S*",
            r"undefined symbol: cudnn\w+|symbol not found: _?cudnn",
            r"cudnn error",
            r"could not load library.{0,40}cudnn\S*\.dll",
            r"cudnn version incompatibility",
            r"cudnn_status_(not_initialized|internal_error|execution_failed|mapping_error|version_mismatch|bad_param|sublibrary)",
            r"unable to find an engine to execute this computation",
            r"could not create cudnn handle",
            r"loaded runtime cudnn library: .* but source was compiled with",
        ),
        cause="cuDNN cannot be loaded or started: another one is in the way, or the card's memory is full",
        fix="unset LD_LIBRARY_PATH and close other programs on the card; if it stays: tunesmith doctor --fix",
        examples=(
            "Could not load library libcudnn_ops_infer.so.8. Error: libcudnn_ops_infer.so.8: cannot open shared object file: No "
            "such file or directory",
            "RuntimeError: cuDNN version incompatibility: PyTorch was compiled against (9, 1, 0) but found runtime version "
            "(8, 9, 7). PyTorch already comes bundled with cuDNN.",
            "RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
            "RuntimeError: GET was unable to find an engine to execute this computation",
        ),
        says=Says.EXACTLY,
    ),
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
        (r"device-side assert triggered", r"cudaErrorAssert"),
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
        (r"\bxid\b.{0,40}[:,] ?\d{1,3}\b",),
        cause="the driver reports a fault of the card (Xid): a program that crashed on it, the driver itself, power, heat, or a defect",
        fix="sudo dmesg | grep -i xid shows the number, which NVIDIA's list of Xid errors explains; restart, update the driver, undo "
        "overclocking; then tunesmith train --resume --out DIR",
        examples=(
            "NVRM: Xid (PCI:0000:01:00): 109, pid=4124, name=python, Ch 00000028, errorString CTX SWITCH TIMEOUT",
        ),
    ),
    Symptom(
        "card-too-hot",
        (
            r"(thermal|hw|power brake) slowdown\s*:\s*active",
            r"(gpu|card) .{0,40}(overheat|too hot|thermal (throttl|shutdown))|thermal throttl|temperature .{0,30}(exceed|too high|slowdown)",
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
