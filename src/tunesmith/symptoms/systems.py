"""Windows, WSL, shells, Python itself."""

from tunesmith.symptoms.symptom import Says, Symptom
from tunesmith.symptoms.wordings import unknown_command

SYMPTOMS = (
    Symptom(
        "windows-runtime-missing",
        (
            r"winerror (126|127|1114|182|193)\b",
            r"dll load failed(?!.{0,60}paging file)",
            r"winerror (?!1455)\d+\] [^\n]{0,120}error loading .{0,160}\.dll",
            r"vcruntime140(_1)?\.dll",
            r"microsoft visual c\+\+ redistributable is not installed",
            r"winerror (998|1157)\b",
            r"could not find module '(?!.{0,200}bitsandbytes).{1,250}\.dll'",
            r"(msvcp140|vcomp140|concrt140|api-ms-win-crt)\S*",
            r"找不到指定的(模块|模組|程序)|指定されたモジュール|angegebene modul wurde nicht|module spécifié est introuvable|módulo especificado|указанный модуль|지정된 모듈|初始化例程失败|初期化ルーチン|dll-initialisierungsroutine|valid win32 application|有效的 win32|win32 アプリケーション",
            r"visual c\+\+ .{0,12}redistributable",
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
            r"can't pickle .{0,80}(local|lambda|_thread|generator)|can't get (local )?(attribute|object)(?! '\w*(config|model|gpt|net|args|vocab)\w*' on <module)",
            r"load\(from_parent\).{0,80}EOFError|_check_not_importing_main|idiom in the main module",
            r"cannot pickle (local )?'?[\w.<>]+'? ?(object)?|can't pickle|can't get (local )?(attribute|object)(?! '\w*(config|model|gpt|net|args|vocab)\w*' on <module)",
        ),
        cause="on Windows each worker of a data loader starts the script anew, and the script has no main guard",
        fix="put the script's body under if __name__ == '__main__': or set num_workers=0; tunesmith needs no workers",
        examples=(
            "RuntimeError: An attempt has been made to start a new process before the current process has finished its bootstrapping "
            "phase.",
            "AttributeError: Can't pickle local object 'main.<locals>.collate'",
        ),
        perhaps=(r"_fixup_main_from_(path|name)|_check_not_importing_main",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "worker-ended",
        (
            r"dataloader worker \(pid(\(s\))? .{1,40}\) (exited unexpectedly|is killed)",
            r"BrokenPipeError.{0,80}(popen|reduction)",
            r"dataloader worker .{0,60}(exited|is killed|died|was killed)|pin memory thread exited",
            r"subprocesses has abruptly died|BrokenProcessPool|process pool .{0,30}terminated abruptly|TerminatedWorkerError",
            r"(popen_spawn|reduction|spawn_main).{0,300}BrokenPipeError",
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
            r"initializing lib\w*omp\S*, but found|lib(iomp5|omp|gomp)\S* already initialized",
            r"MKL_THREADING_LAYER=INTEL is incompatible|MKL_SERVICE_FORCE_INTEL",
        ),
        cause="two libraries brought their own OpenMP, usually pip and conda in one environment",
        fix="make a new environment with pip only; to get on for now: KMP_DUPLICATE_LIB_OK=TRUE",
        examples=("OMP: Error #15: Initializing libiomp5md.dll, but found libiomp5md.dll already initialized.",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "file-in-use",
        (
            r"database is locked|could not get lock \S+|is another process using it|is held by process \d+|nicht ausgeführt oder verändert werden|text ?busy\)?$",
            r"winerror 32\b",
            r"being used by another process",
            r"device or resource busy",
            r"text file busy",
            r"another process writes",
            r"別のプロセスが使用中",
            r"winerror 33\b|errno (16|26)\b|file lock '.{1,200}' could not be acquired",
            r"另一个程序正在使用|另一個程序正在使用|进程无法访问|von einem anderen prozess|utilisé par un autre processus|(utilizado|usado|utilizzato) (por|da) (otro|outro|un altro) process?o|занят другим процессом|다른 프로세스|別のプロセスが使用",
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
            r"could not open lock file|are you root\?",
            r"strerror: permission denied",
            r"(?<!EACCES:[ ])(?<!\(13:[ ])permission denied(?! ?\(publickey|, please try| for (table|relation|schema|database|sequence))",
            r"winerror 5\b",
            r"access is denied",
            r"errno 13\b",
            r"アクセスが拒否されました",
            r"operation not permitted",
            r"may not be written to",
            r"os error 13\b|problem when trying to write (in|to) your cache|(?<!array[ ])(is )?not write?able",
            r"zugriff verweigert|accès refusé|acceso denegado|acesso negado|accesso negato|отказано в доступе|拒绝访问|存取被拒|拒絕存取|액세스가 거부|权限不够|许可が|許可がありません|keine berechtigung|permission non accordée|permiso denegado|permissão negada|허가 거부|odmowa dostępu|erişim engellendi|toegang geweigerd",
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
            r"filename too long|path (name )?(is )?too long|MAX_PATH|LongPathsEnabled|PathTooLong|os error (36|206)\b|\[Errno 63\]",
            r"errno 2\].{0,40}: '[a-z]:\\[^'\n]{200,}",  # pip, where long paths are switched off
            r"ファイル名または拡張子が長すぎ|文件名或扩展名太长|檔案名稱或副檔名太長|dateiname oder die erweiterung ist zu lang|dateiname ist zu lang|extension (est )?trop long|la extensión es demasiado|имя файла .{0,40}(длин|слишком)|확장명이 너무|ファイル名が長すぎ|文件名(过|太)长",
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
            r"os error 1314|symbolic link privilege|support symlinks|activate developer mode",
            r"要求された特権|客户端没有所需的特权|用戶端沒有這項特殊權限|fehlt ein erforderliches recht|privilège nécessaire|privilegio requerido|не обладает требуемыми правами|필요한 권한",
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
        (
            r"running scripts is disabled on this system",
            r"PSSecurityException",
            r"スクリプトの実行が無効",
            r"execution of scripts is disabled|about_Execution_Policies|is not digitally signed",
            r"ausführung von skripts|exécution de scripts|ejecución de scripts|execução de scripts|esecuzione di script|выполнение сценариев|禁止运行脚本|停用指令碼執行|停用指令碼|스크립트를 실행할 수 없",
        ),
        cause="PowerShell forbids scripts, the one that activates the environment among them",
        fix="Set-ExecutionPolicy -Scope CurrentUser RemoteSigned, then activate again",
        examples=(
            r"File C:\project\.venv\Scripts\Activate.ps1 cannot be loaded because running scripts is disabled on this system.",
        ),
        says=Says.EXACTLY,
    ),
    Symptom(
        "old-powershell",
        (
            r"token '&&' is not a valid statement separator",
            r"トークン '&&' は",
            r"(token|トークン|标记|標記|语言元素|jeton|лексема) ?' ?(&&|\|\|) ?'|' ?(&&|\|\|) ?'.{0,20}(토큰|语句分隔符|分隔符|valid statement separator|有効なステートメント区切り)",
            r"ampersand \(&\) character is not allowed",
        ),
        cause="this PowerShell does not know &&",
        fix="type the two commands one after the other",
        examples=("The token '&&' is not a valid statement separator in this version.",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "python-not-found",
        (
            r"command exists in these python versions",
            r"python was not found; run without arguments",
            r"'?(python3?|pip3?|py|tunesmith)'? ?(:|is) ?(command )?not (found|recognized)",
            r"'(python3?|pip3?|tunesmith)' is not recognized",
            r"the term '(python3?|pip3?|tunesmith|\S*activate\S*)' (is|was) not recognized",
            r"no module named pip\b",
            r"(python3?|pip3?|tunesmith): command not found",
            r"unable to create process using|fatal error in launcher|(locate|no) pyvenv\.cfg|no suitable python runtime|ensurepip is not available|no python at '",
            r"python wurde nicht gefunden|未找到 python|python が見つかりません|no se encontró python|python est introuvable|impossible de trouver python|python не найден|python을 찾을 수 없|pyenv: \S+: command not found|version '?\d[\d.]+'? is not installed \(set by",
            *unknown_command(
                r"python3?(\.\d+)?|pip3?|py|tunesmith|conda|uv|hf|huggingface-cli|torchrun\w*|pyhton3?|pyton3?|phyton3?|accelerate|"
                r"tensorboard|jupyter|jupyter-\w+|wandb|mlflow|ipython|gdown"
            ),
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
            r"required feature is not installed|HCS_E_\w+|0x8037011\d|0x8004032[0-9a-f]|0x800701bc|0x8007019e|0x80370114|\bWsl/(Service|CreateInstance|Callmsi|Register)",
            r"(enable|install) (the )?.{0,20}virtual machine platform|virtuali[sz]ation .{0,60}(bios|not enabled|disabled)",
            r"windows subsystem for linux (has no installed|is not installed|optional component|instance has terminated)|wsl 2 installation is incomplete",
        ),
        cause="WSL cannot start its virtual machine: virtualisation is off, or a part of Windows is missing",
        fix="switch on virtualisation in the BIOS, then in a PowerShell of the administrator: wsl --install; wsl --update",
        examples=("WslRegisterDistribution failed with error: 0x80370102",),
        says=Says.EXACTLY,
    ),
    Symptom(
        "port-taken",
        (
            r"could not bind to port \d+",
            r"(?<!\(98:[ ])address already in use",
            r"winerror 10048",
            r"only one usage of each socket address",
            r"EADDRINUSE",
            r"errno (98|48)\b",
            r"os error (98|48|10048|10013)\b|winerror 10013|port \d+ (is |was )?(already )?(in use|taken|occupied|allocated|being used)|port is already allocated|cannot find empty port|forbidden by its access permissions",
            r"套接字地址|ソケット アドレス|jede socketadresse|adresse de socket|dirección de socket|адреса сокета|소켓 주소|adresse (wird )?bereits verwendet|地址已(经)?(被)?使用|地址已在使用|アドレスは(既|すで)に使用|adresse déjà utilisée|dirección ya (está )?en uso|адрес уже используется",
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
