"""Windows, WSL, shells, Python itself."""

from tunesmith.symptoms.symptom import Says, Symptom

SYMPTOMS = (
    Symptom(
        "windows-runtime-missing",
        (
            r"winerror (126|127|1114|182|193)\b",
            r"dll load failed(?!.{0,60}paging file)",
            r"winerror (?!1455)\d+\] [^\n]{0,120}error loading .{0,160}\.dll",
            r"vcruntime140(_1)?\.dll",
            r"microsoft visual c\+\+ redistributable is not installed",
        ),
        cause="Windows cannot load torch's libraries: the Visual C++ runtime is missing, or torch came damaged",
        fix="install https://aka.ms/vs/17/release/vc_redist.x64.exe and restart; if it stays: tunesmith doctor --fix",
        examples=(
            "OSError: [WinError 126] The specified module could not be found. Error loading "
            r'"C:\venv\Lib\site-packages\torch\lib\fbgemm.dll" or one of its dependencies.',
            "OSError: [WinError 1114] A dynamic link library (DLL) initialization routine failed. Error loading "
            r'"C:\venv\Lib\site-packages\torch\lib\c10.dll" or one of its dependencies.',
            "ImportError: DLL load failed while importing _C: The specified module could not be found.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "no-main-guard",
        (
            r"start a new process before the current process has finished its bootstrapping",
            r"freeze_support\(\)",
            r"can't pickle .{0,80}(local|lambda|_thread|generator)|can't get (local )?(attribute|object)",
        ),
        cause="on Windows each worker of a data loader starts the script anew, and the script has no main guard",
        fix="put the script's body under if __name__ == '__main__': or set num_workers=0; tunesmith needs no workers",
        examples=(
            "RuntimeError: An attempt has been made to start a new process before the current process has finished its bootstrapping "
            "phase.",
            "AttributeError: Can't pickle local object 'main.<locals>.collate'",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "worker-ended",
        (
            r"dataloader worker \(pid(\(s\))? .{1,40}\) (exited unexpectedly|is killed)",
            r"BrokenPipeError.{0,80}(popen|reduction)",
        ),
        cause="a worker of a data loader died: memory ran out, or (Windows) the script has no main guard",
        fix="set num_workers=0 to see the real error; tunesmith needs no workers",
        examples=("RuntimeError: DataLoader worker (pid(s) 5196, 3212) exited unexpectedly",),
    ),
    Symptom(
        "two-openmp",
        (
            r"libiomp5md\.dll|KMP_DUPLICATE_LIB_OK|multiple copies of the OpenMP runtime",
            r"omp: error #15",
            r"libomp\.dylib already initialized|libiomp5.{0,40}already initialized",
        ),
        cause="two libraries brought their own OpenMP, usually pip and conda in one environment",
        fix="make a new environment with pip only; to get on for now: KMP_DUPLICATE_LIB_OK=TRUE",
        examples=("OMP: Error #15: Initializing libiomp5md.dll, but found libiomp5md.dll already initialized.",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "file-in-use",
        (
            r"winerror 32\b",
            r"being used by another process",
            r"device or resource busy",
            r"text file busy",
            r"another process writes",
            r"別のプロセスが使用中",
        ),
        cause="another program has the file open: an editor, a virus scanner, a cloud folder, or a second run",
        fix="close it, and keep runs outside of OneDrive, Dropbox and the like; then run the same command again",
        examples=(
            "PermissionError: [WinError 32] The process cannot access the file because it is being used by another process: "
            "'checkpoint-500\\\\optimizer.pt'",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "no-permission",
        (
            r"permission denied",
            r"winerror 5\b",
            r"access is denied",
            r"errno 13\b",
            r"アクセスが拒否されました",
            r"operation not permitted",
            r"may not be written to",
        ),
        cause="this user may not write (or read) there",
        fix="name an --out in your own folder; packages belong into an environment (python -m venv .venv), not under sudo",
        examples=(
            "PermissionError: [Errno 13] Permission denied: '/usr/local/lib/python3.11/site-packages/tunesmith'",
            "PermissionError: [WinError 5] Access is denied: 'C:\\\\Program Files\\\\model'",
            "PermissionError: [WinError 5] アクセスが拒否されました。",
        ),
    ),
    Symptom(
        "path-too-long",
        (
            r"winerror 206",
            r"filename or extension is too long",
            r"file name too long",
            r"long path support",
            r"errno 36\b",
        ),
        cause="a path is longer than the system allows (Windows: 260 characters)",
        fix="use short folders (C:\\runs), or allow long paths: Set-ItemProperty "
        "HKLM:\\SYSTEM\\CurrentControlSet\\Control\\FileSystem LongPathsEnabled 1 in a PowerShell of the administrator",
        examples=(
            "FileNotFoundError: [WinError 206] The filename or extension is too long",
            "ERROR: Could not install packages due to an OSError: [Errno 2] No such file or directory. HINT: This error might have "
            "occurred since this system does not have Windows Long Path support enabled.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "no-symlinks",
        (
            r"winerror 1314",
            r"required privilege is not held",
            r"cache-system uses symlinks",
            r"HF_HUB_DISABLE_SYMLINKS_WARNING",
        ),
        cause="Windows makes symbolic links in developer mode only; without them the hub's cache takes more room",
        fix="switch on developer mode (Settings, System, For developers), or leave it as it is",
        examples=(
            "OSError: [WinError 1314] A required privilege is not held by the client",
            "UserWarning: `huggingface_hub` cache-system uses symlinks by default to efficiently store duplicated files but your machine "
            "does not support them",
        ),
        says=Says.HARMLESS,
    ),
    Symptom(
        "scripts-forbidden",
        (r"running scripts is disabled on this system", r"PSSecurityException", r"スクリプトの実行が無効"),
        cause="PowerShell forbids scripts, the one that activates the environment among them",
        fix="Set-ExecutionPolicy -Scope CurrentUser RemoteSigned, then activate again",
        examples=(
            r"File C:\project\.venv\Scripts\Activate.ps1 cannot be loaded because running scripts is disabled on this system.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "old-powershell",
        (r"token '&&' is not a valid statement separator", r"トークン '&&' は"),
        cause="this PowerShell does not know &&",
        fix="type the two commands one after the other",
        examples=("The token '&&' is not a valid statement separator in this version.",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "python-not-found",
        (
            r"python was not found; run without arguments",
            r"'?(python3?|pip3?|py|tunesmith)'? ?(:|is) ?(command )?not (found|recognized)",
            r"'(python3?|pip3?|tunesmith)' is not recognized",
            r"the term '(python3?|pip3?|tunesmith)' is not recognized",
            r"no module named pip\b",
            r"(python3?|pip3?|tunesmith): command not found",
        ),
        cause="the shell does not find the program: it is not installed, or the environment is not active",
        fix="activate the environment (source .venv/bin/activate, on Windows .venv\\Scripts\\activate), or install Python from "
        "python.org",
        examples=(
            "Python was not found; run without arguments to install from the Microsoft Store, or disable this shortcut from Settings",
            "bash: tunesmith: command not found",
            "'pip' is not recognized as an internal or external command, operable program or batch file.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "wsl-not-ready",
        (
            r"WslRegisterDistribution failed",
            r"0x8037010\d",
            r"wsl.{0,60}virtual machine platform",
            r"wsl 2 requires an update",
        ),
        cause="WSL cannot start its virtual machine: virtualisation is off, or a part of Windows is missing",
        fix="switch on virtualisation in the BIOS, then in a PowerShell of the administrator: wsl --install; wsl --update",
        examples=("WslRegisterDistribution failed with error: 0x80370102",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "port-taken",
        (
            r"address already in use",
            r"winerror 10048",
            r"only one usage of each socket address",
            r"EADDRINUSE",
            r"errno (98|48)\b",
        ),
        cause="another program listens on this port, often an earlier run that still runs",
        fix="end it, or take another port: --port N (torchrun: --master-port N)",
        examples=(
            "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",
            "[W socket.cpp:436] [c10d] The server socket has failed to bind to [::]:29500 (errno: 98 - Address already in use).",
        ),
        says=Says.EXACTLY,
    ),
)
