"""Shells and environments: what happens before Python runs, or with the wrong one."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "brackets-in-zsh",
        (r"zsh(:\d+)?: no matches found: |fish: no matches for wildcard",),
        cause="the shell takes square brackets or stars for a pattern of file names",
        fix="put the word into quotes: pip install 'transformers[torch]'",
        examples=("zsh: no matches found: transformers[torch]",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "activated-for-another-shell",
        (
            r"/activate\S*:\d+: parse error",
            r"/activate: permission denied",
            r"error while reading file '?\S*/activate'?$|/bin/activate \(line \d+\)",
            r"(sh|dash)(: \d+)?: source: not found|\d: source: not found|case builtin not inside of switch block",
        ),
        cause="the environment was activated in the way of another shell",
        fix="bash, zsh: source .venv/bin/activate. fish: source .venv/bin/activate.fish. sh, dash: . .venv/bin/activate. "
        "PowerShell: .venv\\Scripts\\Activate.ps1",
        examples=("source: Error while reading file 'venv/bin/activate'", "dash: 1: source: not found"),
        says=Says.EXACTLY,
    ),
    Symptom(
        "line-ends-of-windows",
        (
            r"\\r': \[errno 2\]",
            r"\\r'?: (command not found|no such file)|\$'[^'\n]*\\r'|use -\[v\]S to pass options in shebang|\^M: bad interpreter|interpreter: .{0,60}\^M",
        ),
        cause="the script has the line ends of Windows, which shells take for part of the words",
        fix="sed -i 's/\\r$//' SCRIPT.sh (or dos2unix); keep git from doing it again: git config --global core.autocrlf input",
        examples=("/usr/bin/env: 'bash\\r': No such file or directory", "run.sh: line 2: $'\\r': command not found"),
        says=Says.EXACTLY,
    ),
    Symptom(
        "python-read-by-a-shell",
        (
            r"\.py: (line )?\d+: .{0,60}(syntax error|import: |from: |command not found|unexpected)",
            r"(^|: )import: (command )?not found|import-im6|from: can't read /var/mail",
        ),
        cause="a Python script was run by the shell",
        fix="python SCRIPT.py; or write #!/usr/bin/env python3 into its first line",
        examples=(
            "train.py: line 4: syntax error near unexpected token `('",
            "from: can't read /var/mail/transformers",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "environment-was-moved",
        (
            r"the file specified the interpreter '",
            r"(?<!\^M:[ ])bad interpreter: (?!.{0,200}\^M).{1,200}(no such file|not found|Datei|ファイル)|cannot execute: required file not found",
        ),
        cause="the environment was moved or its Python removed: its programs name a Python that is not there",
        fix="environments cannot be moved: make a new one (python3 -m venv .venv) and install again",
        examples=(
            "bash: /home/user/new/.venv/bin/pip: /home/user/old/.venv/bin/python3: bad interpreter: No such file or directory",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "python-finds-no-library",
        (
            r"sre module mismatch",
            r"no module named 'encodings'|init_fs_encoding|could not find platform (in)?dependent libraries",
        ),
        cause="Python does not find its own library: PYTHONHOME or PYTHONPATH name another one, or the installation is damaged",
        fix="unset PYTHONHOME PYTHONPATH; if it stays, make the environment anew",
        examples=("ModuleNotFoundError: No module named 'encodings'",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "too-many-processes",
        (
            r"ThreadPoolBuildError|kind: WouldBlock",
            r"BlockingIOError: \[Errno 11\]|can't start new thread|fork: (retry: )?resource temporarily unavailable",
            r"thread creation failed|OMP: Error #34|blas_thread_init: pthread_create failed|pthread_create has failed",
            r"errno 11\] resource temporarily unavailable",
        ),
        cause="the number of processes or threads that one may have here is used up",
        fix="see ulimit -u and the limits of the container; OMP_NUM_THREADS=4, and fewer workers of data loaders",
        examples=(
            "BlockingIOError: [Errno 11] Resource temporarily unavailable",
            "RuntimeError: can't start new thread",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "script-for-newer-python",
        (
            r"non-ascii character '\\x.{0,80}no encoding declared|require a different python version",
            r"unsupported operand type\(s\) for \|: '(type|\w+Meta|_\w+|ellipsis)' and|unsupported operand type\(s\) for \|: '\w+' and '(type|NoneType)'",
            r"TypeError: '(type|ABCMeta)' object is not subscriptable",
            r"match \w+:\s[\s^]*SyntaxError|:= .{0,80}\s[\s^]*SyntaxError|No module named 'tomllib'",
            r"requires python '?>=|requires a different python|requires-python",
        ),
        cause="the script or package is written for a newer Python than this one",
        fix="take Python 3.11 or newer: uv venv --python 3.12, or conda create -n NAME python=3.12; then install again",
        examples=(
            "TypeError: unsupported operand type(s) for |: 'type' and 'NoneType'",
            "TypeError: 'type' object is not subscriptable",
        ),
    ),
    Symptom(
        "package-called-otherwise",
        (
            r"no matching distribution found for (cv2|sklearn|PIL|yaml|bs4|dotenv|skimage|pytorch|huggingface)\b",
            r"you tried to install .pytorch|the package named for pytorch is|the 'sklearn' pypi package is deprecated",
        ),
        cause="pip knows the package under another name",
        fix="pip install torch (not pytorch), scikit-learn (not sklearn), opencv-python (not cv2), pillow (not PIL), pyyaml (not yaml)",
        examples=('Exception: You tried to install "pytorch". The package named for PyTorch is "torch"',),
        says=Says.EXACTLY,
    ),
    Symptom(
        "notebook-kernel-missing",
        (r"no such kernel named|NoSuchKernel\b|kernel \S+ (not found|does not exist)",),
        cause="the notebook names a kernel that is not installed here",
        fix="in the environment: pip install ipykernel, then python -m ipykernel install --user --name NAME; or choose python3 in the menu",
        examples=("jupyter_client.kernelspec.NoSuchKernel: No such kernel named gpt2env",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "conda-not-set-up",
        (r"(not been )?properly configured to use 'conda activate'|run 'conda init' before|conda init <shell",),
        cause="this shell was not prepared for conda",
        fix="conda init bash (or zsh, fish, powershell), then open a new terminal",
        examples=("CommandNotFoundError: Your shell has not been properly configured to use 'conda activate'.",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "no-such-environment",
        (
            r"EnvironmentNameNotFound|EnvironmentLocationNotFound|could not find conda environment|not a conda environment",
        ),
        cause="conda knows no environment of that name",
        fix="conda env list shows them; conda create -n NAME python=3.12 makes one",
        examples=("EnvironmentNameNotFound: Could not find conda environment: gpt2",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "not-in-the-package-list",
        (
            r"E: unable to locate package|has no installation candidate",
            r"PackagesNotFoundError|not available from current channels|unable to find a match: ",
        ),
        cause="the system's package list (apt, dnf, conda) has no such package, or is old",
        fix="sudo apt update, then again; Python's packages come by pip inside of an environment",
        examples=("E: Unable to locate package python3.11-venv",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "requirement-misspelt",
        (
            r"package literally named|consider using the '-r' flag",
            r"invalid requirement: '|expected (end or semicolon|package name at the start|matching right)|is not a valid editable requirement",
        ),
        cause="pip cannot read what is to be installed",
        fix="write NAME==1.2.3 with two equal signs, between quotes where it holds < > [ ]",
        examples=("ERROR: Invalid requirement: 'torch=2.0'",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "time-limit-reached",
        (
            r"timeout: sending signal (TERM|KILL)|timeout: コマンド",
            r"cpu time limit exceeded|SIGXCPU",
            r"due to time limit|walltime .{0,30}(exceeded|limit)|job .{0,40}exceeded (its )?(time|walltime) limit|cell execution timed out",
        ),
        cause="the time that was asked for is over, and the system ended the run",
        fix="tunesmith train --max-hours 7.5 saves and ends before, and tunesmith train --resume --out DIR goes on in the next job",
        examples=("slurmstepd: error: *** JOB 4711 ON node1 CANCELLED AT 2026-11-20T07:00:01 DUE TO TIME LIMIT ***",),
        says=Says.EXACTLY,
    ),
)
