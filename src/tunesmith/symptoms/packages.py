"""Python packages that are missing or do not belong together."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "torch-missing",
        (r"No module named 'torch'",),
        cause="torch is not installed in the Python that runs",
        fix="activate the environment, then: tunesmith doctor --fix",
        examples=("ModuleNotFoundError: No module named 'torch'",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "torch-not-for-this-python",
        (
            r"no matching distribution found for torch",
            r"building wheel for torch|failed (to build|building wheel for) torch|torch-0\.1\.2",
            r"none of the wheel's tags match|not a supported wheel on this platform",
            r"could not find a version that satisfies the requirement torch",
            r"torch\S* is not a supported wheel on this platform",
            r"torch.{0,40}requires.{0,10}python",
        ),
        cause="there is no torch for this Python: it is too new, too old, or has 32 bits",
        fix="take the 64-bit Python 3.12: uv venv --python 3.12, or from python.org",
        examples=(
            "ERROR: Could not find a version that satisfies the requirement torch (from versions: none)",
            "ERROR: No matching distribution found for torch>=2.11",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "file-named-like-package",
        (r"partially initialized module '\w+' has no attribute", r"most likely due to a circular import"),
        cause="a file of yours has the name of a package (torch.py, datasets.py) and is imported in its place",
        fix="rename that file, and delete __pycache__ beside it",
        examples=(
            "AttributeError: partially initialized module 'torch' has no attribute 'Tensor' (most likely due to a circular import)",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "numpy-too-new",
        (
            r"compiled using numpy 1\.x cannot be run in numpy 2",
            r"numpy\.dtype size changed",
            r"numpy\.core\.multiarray failed to import",
            r"_ARRAY_API not found",
            r"module 'numpy' has no attribute '(bool|object|int|float)'",
            r"numpy is not available|numpy\.core\.\w+ failed|numpy.{0,40}binary incompatib|np\.(bool|object|int|float)\b.{0,30}(deprecated|removed)|`np\.float_` was removed",
        ),
        cause="a package was built for another NumPy than the one that is installed",
        fix="update the package that is named; best in a new environment: python -m venv .venv",
        examples=(
            "A module that was compiled using NumPy 1.x cannot be run in NumPy 2.1.0 as it may crash.",
            "ValueError: numpy.dtype size changed, may indicate binary incompatibility. Expected 96 from C header, got 88 from PyObject",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "extension-for-another-torch",
        (
            r"undefined symbol: _ZN?K?\d*c10",
            r"undefined symbol: _ZN?K?\d*(at|torch)\d",
            r"undefined symbol: _Z\w+",
            r"operator torchvision::nms does not exist",
            r"couldn't load custom c\+\+ ops",
            r"(torchvision|torchaudio|xformers|flash.attn).{0,80}(compiled|built) (for|with|against).{0,40}(torch|pytorch|cuda)",
        ),
        cause="a package with machine code (torchvision, flash-attn, xformers) was built for another version of torch",
        fix="remove it (pip uninstall torchvision torchaudio flash-attn xformers); tunesmith needs none of them",
        examples=(
            "ImportError: flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN3c104cuda9SetDeviceEi",
            "RuntimeError: operator torchvision::nms does not exist",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "system-too-old",
        (r"GLIBC_2\.\d+'? not found", r"(GLIBCXX|CXXABI)_[\d.]+'? not found", r"glibc.{0,40}(too old|required)"),
        cause="the Linux is older than the packages were built for",
        fix="take a newer Linux (Ubuntu 22.04 or later), or a container; for GLIBCXX: conda install -c conda-forge libstdcxx-ng",
        examples=(
            "ImportError: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.32' not found",
            "ImportError: /lib64/libstdc++.so.6: version `GLIBCXX_3.4.30' not found",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "python-of-the-system",
        (r"externally-managed-environment", r"this environment is externally managed"),
        cause="the system's own Python refuses packages, so that nothing of the system breaks",
        fix="make an environment: python3 -m venv .venv && source .venv/bin/activate, then install again",
        examples=("error: externally-managed-environment",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "packages-do-not-agree",
        (
            r"ResolutionImpossible|VersionConflict|DistributionNotFound|requires \S+[<>=]=?[\d.]+\S*, (but|which)|is incompatible with|(but|and) (you have|found) \S+ ?[\d=]+",
            r"conflicting dependencies|the conflict is caused by",
            r"is required for a normal functioning of this module, but found",
            r"pip's dependency resolver does not currently take into account",
            r"No solution found when resolving dependencies",
            r"incompatible versions",
        ),
        cause="the installed packages do not agree on versions",
        fix="install into a new environment: python -m venv .venv; tunesmith doctor names what does not fit",
        examples=(
            "ImportError: huggingface-hub>=0.30.0,<1.0 is required for a normal functioning of this module, but found "
            "huggingface-hub==1.2.3.",
            "ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency-resolution/",
        ),
    ),
    Symptom(
        "bitsandbytes-broken",
        (
            r"bitsandbytes.{0,120}(cuda binary|native library|cuda setup|compiled without gpu|no gpu support|not installed|not found)",
            r"(could not|failed to) (find|load) .{0,20}bitsandbytes",
            r"cuda setup failed despite (gpu|cuda) being available|CUDA[_ ]SETUP: ",
            r"did not contain \['libcudart|bitsandbytes.{0,20}csrc|csrc.{0,20}bitsandbytes|bnb_cuda_version",
            r"install .{0,30}bitsandbytes|requires .{0,30}bitsandbytes",
        ),
        cause="the package bitsandbytes is missing or has no library for this CUDA or system",
        fix="pip install -U bitsandbytes; tunesmith needs none: it keeps moments in 8 bits by itself (--states fp32-8bit)",
        examples=(
            "Could not find the bitsandbytes CUDA binary at PosixPath('/venv/bitsandbytes/libbitsandbytes_cuda124.so')",
            "The installed version of bitsandbytes was compiled without GPU support. 8-bit optimizers and GPU quantization are unavailable.",
            "ImportError: Using `bitsandbytes` 8-bit quantization requires the latest version of bitsandbytes: `pip install -U bitsandbytes`",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "script-for-older-transformers",
        (
            r"unexpected keyword argument '(evaluation_strategy|tokenizer|no_cuda|overwrite_output_dir|per_gpu_train_batch_size|"
            r"logging_dir|save_safetensors|gpus|weights_summary|fp16_opt_level|progress_bar_refresh_rate)'",
            r"cannot import name '(AdamW|TextDataset|LineByLineTextDataset|AutoModelWithLMHead|TFGPT2LMHeadModel|pipeline|cached_download|"
            r"HfFolder|load_metric|ProgressBarBase)' from",
            r"module '(transformers|datasets)' has no attribute",
            r"tensorflow\.contrib",
            r"No module named 'tensorflow\.contrib'",
            r"no attribute '(placeholder|reset_default_graph|Session)'",
            r"No module named 'pytorch_lightning\.|No module named 'transformers\.modeling_",
        ),
        cause="the script was written for an older version of the library",
        fix="tunesmith train FILE --model gpt2 --out DIR takes its place (docs: coming from)",
        examples=(
            "TypeError: TrainingArguments.__init__() got an unexpected keyword argument 'evaluation_strategy'",
            "ImportError: cannot import name 'AdamW' from 'transformers'",
            "ModuleNotFoundError: No module named 'tensorflow.contrib'",
            "ImportError: cannot import name 'ProgressBarBase' from 'pytorch_lightning.callbacks'",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "library-of-another-version",
        (
            r"AttributeError: can't set attribute|AttributeError: '\w+' object has no attribute '\w+'",
            r"got an unexpected keyword argument '\w+'",
            r"cannot import name '\w+' from",
            r"module '[\w.]+' has no attribute '\w+'",
            r"missing \d+ required (positional|keyword-only) argument",
            r"has been (removed|deprecated and removed)|is no longer supported",
        ),
        cause="a script and a library do not fit: the library is newer or older than the script",
        fix="install the versions that the script names, in an environment of its own; tunesmith names what it needs: tunesmith doctor",
        examples=(
            "TypeError: Accelerator.__init__() got an unexpected keyword argument 'dispatch_batches'",
            "ImportError: cannot import name 'is_flash_attn_available' from 'transformers.utils'",
        ),
        says=Says.SOMETHING,
    ),
    Symptom(
        "accelerate-missing",
        (
            r"with `?pytorch`? requires `?accelerate|requires `?accelerate|install accelerate",
            r"requires accelerate",
            r"using `?low_cpu_mem_usage.{0,60}accelerate",
        ),
        cause="the Trainer of transformers needs the package accelerate",
        fix="pip install accelerate; tunesmith needs none",
        examples=(
            "ImportError: Using the `Trainer` with `PyTorch` requires `accelerate>=0.26.0`: Please run `pip install "
            "transformers[torch]` or `pip install 'accelerate>=0.26.0'`",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "package-missing",
        (
            r"No module named '[\w.]+'",
            r"ModuleNotFoundError",
            r"requires the \S+ library but it was not found",
            r"PackageNotFoundError",
        ),
        cause="a Python package is not installed in the Python that runs",
        fix="activate the environment, then: tunesmith doctor (it names what is missing)",
        examples=("ModuleNotFoundError: No module named 'datasets'",),
        says=Says.SOMETHING,
    ),
)
