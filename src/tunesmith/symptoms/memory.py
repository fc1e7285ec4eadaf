"""Memory of the card and of the host."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "card-memory-full",
        (
            r"cuda out of memory",
            r"tried to allocate [\d.]+ ?[kmg]i?b.{0,10}gpu \d",
            r"torch(\.cuda)?\.OutOfMemoryError",
            r"cuda error: out of memory",
            r"cudaErrorMemoryAllocation",
            r"CUBLAS_STATUS_ALLOC_FAILED",
            r"CUDNN_STATUS_ALLOC_FAILED",
            r"hip out of memory",
            r"resource exhausted: OOM when allocating tensor",
            r"ResourceExhaustedError",
            r"(gpu|vram|video memory).{0,40}(out of memory|ran out|not enough memory)",
            r"\bOOM\b.{0,40}(gpu|cuda|allocat)",
            r"(?<!on[ ]host:[ ])CUDA_ERROR_OUT_OF_MEMORY",
            r"cudnn_status_not_supported.{0,200}out of memory",
            r"memory ran out with .{1,60} at once",
            r"cuMemCreate .{0,40}out of memory",
        ),
        cause="the card's memory is full: the run needs more than is free, or another program holds a part of it",
        fix="tunesmith plan --model MODEL shows what fits; tunesmith doctor names who holds memory; tunesmith train shrinks by "
        "itself where a script stops",
        examples=(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 11.99 GiB of "
            "which 0 bytes is free. Of the allocated memory 10.86 GiB is allocated by PyTorch, and 312.53 MiB is reserved by "
            "PyTorch but unallocated.",
            "RuntimeError: CUDA error: out of memory",
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating tensor with shape[1,1024,50257]",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "paging-file-too-small",
        (
            r"winerror 1455",
            r"paging file is too small|页面文件太小|auslagerungsdatei ist zu klein",
            r"ページング ファイルが小さすぎる",
        ),
        cause="Windows has no room left in its paging file, which torch's libraries reserve when they are loaded",
        fix="Windows: System, About, Advanced system settings, Performance, Virtual memory: let Windows manage it; then restart",
        examples=(
            "OSError: [WinError 1455] The paging file is too small for this operation to complete. Error loading "
            r'"C:\Python\Lib\site-packages\torch\lib\cudnn_cnn_infer64_8.dll" or one of its dependencies.',
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "host-memory-full",
        (
            r"DefaultCPUAllocator: (can't|not enough)",
            r"std::bad_alloc",
            r"pinned (host )?memory.{0,40}(of size|fail|not)|(not allocate|allocating|fail\w* to alloc\w*).{0,40}(pinned|on host)",
            r"unable to allocate [\d.]+ ?[kmgt]?i?b",
            r"\bMemoryError\b",
            r"cannot allocate memory|could not allocate memory|errno 12\b",
            r"(ram|memory) (usage|limit) .{0,40}exceed|your notebook (tried to allocate more memory|ran out of memory)",
            r"out of memory: killed process",
            r"oom-?kill",
            r"session crashed after using all available ram",
            r"realloc of size \d+ failed",
            r"not enough memory: you tried to allocate",
        ),
        cause="the memory of the machine (not of the card) is full",
        fix="close other programs; tunesmith reads text as a stream and keeps it on disk, so that its size does not matter; in WSL "
        "give it more in .wslconfig",
        examples=(
            "RuntimeError: [enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 822083584 bytes. Error code 12 (Cannot allocate memory)",
            "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 57.0 GiB for an array with shape (1000, 7651234)",
            "Out of memory: Killed process 21011 (python) total-vm:41943040kB",
        ),
    ),
    Symptom(
        "killed",
        (
            r"^killed$",
            r"\bkilled\s+python3?\b",
            r"signals\.SIGKILL",
            r"exit ?code\s*:?\s*-9\b",
            r"returned non-zero exit status -9",
            r"exited with code 137",
            r"exit code 137",
            r"line \d+: +\d+ killed",
        ),
        cause="the system ended the program: nearly always because the memory of the machine ran out",
        fix="close other programs (tunesmith doctor shows free memory), then go on: tunesmith train --resume --out DIR",
        examples=(
            "Killed",
            "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: exitcode  : -9 (pid: 12345)",
            "subprocess.CalledProcessError: Command '['python', 'train.py']' died with <Signals.SIGKILL: 9>.",
        ),
    ),
    Symptom(
        "shared-memory-too-small",
        (
            r"out of shared memory",
            r"bus error.{0,60}",
            r"/dev/shm",
            r"unable to open shared memory object",
            r"shm_open",
        ),
        cause="a container gives its programs too little shared memory for data loaders",
        fix="start the container with --ipc=host or --shm-size=8g; tunesmith needs none",
        examples=(
            "RuntimeError: DataLoader worker (pid 1234) is killed by signal: Bus error. It is possible that dataloader's workers "
            "are out of shared memory. Please try to raise your shared memory limit.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "crashed",
        (r"segmentation fault", r"access violation", r"0xc0000005|3221225477", r"SIGSEGV", r"exit ?code:? ?-11\b"),
        cause="a library crashed: usually two versions of one that do not belong together",
        fix="tunesmith doctor (it tries each library in a process of its own); best in a new environment",
        examples=(
            "Segmentation fault (core dumped)",
            "Windows fatal exception: access violation",
            "Process finished with exit code -1073741819 (0xC0000005)",
        ),
        says=Says.SOMETHING,
    ),
    Symptom(
        "kernel-died",
        (
            r"kernel (crashed|died|appears to have died|has died|restarting)|canceled future for execute_request|dead kernel",
        ),
        cause="the process behind the notebook ended: memory ran out, or a library crashed",
        fix="restart it and free memory; the same as a command (tunesmith train ...) says what happened",
        examples=(
            "The Kernel crashed while executing code in the current cell or a previous cell.",
            "The kernel appears to have died. It will restart automatically.",
        ),
        says=Says.SOMETHING,
    ),
    Symptom(
        "processor-too-old",
        (r"illegal instruction", r"SIGILL", r"0xc000001d"),
        cause="the processor lacks instructions that a library was built for (AVX2), or a virtual machine hides them",
        fix="take a machine whose processor has AVX2 (about 2014 and newer); in a virtual machine pass the host's processor "
        "through",
        examples=("Illegal instruction (core dumped)",),
        says=Says.EXACTLY,
    ),
)
