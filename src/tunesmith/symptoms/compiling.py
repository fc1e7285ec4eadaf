"""torch.compile, Triton, compilers, extensions that are built."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "triton-missing",
        (
            r"cannot find a working triton installation",
            r"No module named 'triton",
            r"TritonMissing|triton (is )?(not (available|installed|found|supported)|unavailable)|(requires|install|needs?) triton\b|no module named triton",
            r"no matching distribution found for triton",
            r"windows not yet supported for torch\.compile",
            r"dynamo is not supported on windows",
        ),
        cause="compiled training needs Triton, which is not here (pip brings it on Linux only)",
        fix="--compile no; or install it: pip install triton (Linux), pip install triton-windows (Windows)",
        examples=(
            "torch._inductor.exc.TritonMissing: Cannot find a working triton installation. Either the package is not installed or it "
            "is too old.",
            "ModuleNotFoundError: No module named 'triton'",
            "RuntimeError: Windows not yet supported for torch.compile",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "compiler-missing",
        (
            r"failed to find c compiler|(could not|cannot|unable to) find (a |the |any )?(c\+\+ |c )?compiler|compiler .{0,20}(not found|is required)|\bcl\.exe\b",
            r"InvalidCxxCompiler",
            r"no working c\+\+ compiler",
            r"compiler: cl is not found",
            r"Python\.h'?:? (no such file|not found)|file 'python\.h'",
            r"cannot find -lcuda",
            r"visual c\+\+ 14\.0 or greater is required",
            r"unable to find vcvarsall",
            r"(gcc|g\+\+|cc1plus|x86_64-linux-gnu-gcc)'? ?(failed|: (command )?not found|: no such file)",
            r"command '?\S*(gcc|cl\.exe|cc)'? failed",
            r"check whether you have properly installed gcc",
            r"no such file or directory: '(gcc|g\+\+|cc|c\+\+|cl)'",
        ),
        cause="something is to be compiled, and there is no C++ compiler, or Python's header files are missing",
        fix='Linux: sudo apt install build-essential python3-dev; Windows: Visual Studio Build Tools, "Desktop development with C++"; '
        "or --compile no",
        examples=(
            "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.",
            "torch._inductor.exc.InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')",
            "/tmp/tmpabc/main.c:4:10: fatal error: Python.h: No such file or directory",
            "RuntimeError: Compiler: cl is not found.",
            'error: Microsoft Visual C++ 14.0 or greater is required. Get it with "Microsoft C++ Build Tools"',
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "cuda-toolkit-missing",
        (
            r"CUDA_HOME environment variable is not set|CUDA_(HOME|PATH|TOOLKIT_ROOT_DIR) .{0,40}(not set|not found|is not)|nvcc .{0,40}(not|missing)",
            r"nvcc: (command )?not found",
            r"nvcc.{0,40}is not recognized",
            r"cuda_home does not exist",
            r"No such file or directory: '\S*nvcc'",
            r"could not find cuda toolkit|specify CUDA_TOOLKIT_ROOT",
        ),
        cause="an extension is to be compiled for the card, which needs the CUDA toolkit; training with torch does not",
        fix="tunesmith needs none; for the extension install the toolkit of torch's CUDA version, or take a ready-made wheel",
        examples=(
            "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.",
            "/bin/sh: 1: nvcc: not found",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "cuda-toolkit-differs",
        (
            r"detected cuda version .{1,80} mismatches the version that was used to compile pytorch",
            r"unsupported gnu version",
            r"unsupported microsoft visual studio version",
            r"nvcc fatal",
        ),
        cause="an extension is compiled with another CUDA or compiler than torch was",
        fix='install the toolkit of torch\'s CUDA version (python -c "import torch; print(torch.version.cuda)"), or take a '
        "ready-made wheel; tunesmith needs none",
        examples=(
            "RuntimeError: The detected CUDA version (12.4) mismatches the version that was used to compile PyTorch (11.8). Please make "
            "sure to use the same CUDA versions.",
            "#error -- unsupported GNU version! gcc versions later than 12 are not supported!",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "libcuda-link-missing",
        (r"libcuda\.so cannot found|possible files are located at .{0,120}libcuda",),
        cause="Triton looks for libcuda.so, and only libcuda.so.1 is there (in WSL, for example)",
        fix="export TRITON_LIBCUDA_PATH=/usr/lib/wsl/lib (WSL), or the folder that the message names; or --compile no",
        examples=("AssertionError: libcuda.so cannot found!",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "card-too-old-for-triton",
        (r"too old to be supported by the triton", r"triton .{0,60}(only supports|requires) .{0,40}capability"),
        cause="Triton makes code for cards of compute capability 7.0 and newer (GTX 16, RTX 20); this one is older",
        fix="--compile no; everything else works on such a card",
        examples=(
            "RuntimeError: Found NVIDIA GeForce GTX 1070 which is too old to be supported by the triton GPU compiler, which is used as "
            "the backend.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "kernel-does-not-fit",
        (
            r"OutOfResources",
            r"out of resource: shared memory",
            r"PTXASError|ptxas fatal",
            r"ptxas .{0,60}(failed|error)",
            r"Internal Triton PTX codegen error",
            r"LLVM ERROR",
            r"PassManager::run failed",
        ),
        cause="Triton made code that this card cannot run",
        fix="--compile no; update Triton together with torch",
        examples=(
            "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 114688, Hardware limit: 101376. Reducing "
            "block sizes or `num_stages` may help.",
            "RuntimeError: Internal Triton PTX codegen error: ptxas fatal   : Unresolved extern function '__nv_expf'",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "compiling-failed",
        (
            r"BackendCompilerFailed",
            r"backend='inductor' raised",
            r"torch\._dynamo\.exc\.",
            r"torch\._inductor\.exc\.",
            r"InductorError|LoweringException|torch\.compile.{0,60}(fail|error)|(triton|inductor|dynamo).{0,40}(compilation|compile).{0,20}(failed|error)|TorchRuntimeError|CompilationError",
            r"recompile_limit|cache_size_limit",
            r"CppCompileError",
        ),
        cause="torch could not compile the model",
        fix="--compile no computes the same, more slowly; delete the folder torchinductor_USER in the folder for temporary files",
        examples=(
            "torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:",
            "torch._dynamo hit config.cache_size_limit (8)",
        ),
        says=Says.SOMETHING,
    ),
)
