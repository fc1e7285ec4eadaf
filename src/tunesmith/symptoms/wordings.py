"""Parts of patterns that several rows share: how shells of many languages say that they know no such command."""

AFTER_THE_NAME = (
    r"command not found|(is|was) not recogni[sz]ed|not found|no such file or directory|"
    r"(befehl|kommando) nicht gefunden|nicht gefunden|commande introuvable|n'est pas reconnu|(no|non) .{0,12}(se reconoce|riconosciuto)|"
    r"orden no encontrada|no se encontró la orden|não é reconhecido|не является|не распознан|не найден|команда не найдена|"
    r"未找到命令|不是内部或外部命令|不是內部或外部命令|项识别为|は、?(内部コマンド|コマンドレット)|コマンドが見つかりません|"
    r"은\(는\) 내부|용어가 cmdlet|명령어를 찾을 수 없|nie jest rozpoznawan|iç ya da d.ş komut|wordt niet herkend|"
    r"ist entweder falsch geschrieben|wurde nicht als name eines cmdlet"
)


def unknown_command(names: str) -> tuple[str, ...]:
    """Patterns of a shell (bash, zsh, fish, cmd, PowerShell) that does not know one of these commands.

    Args:
        names: alternatives of a regular expression.
    """
    return (
        rf"(?<![\w/.-])({names})(\.exe)?'?\s*:?\s*({AFTER_THE_NAME})",
        rf"(command not found|unknown command):? '?({names})\b",
        rf"command '({names})' not found|no command '({names})' found",
        rf"(无法将|無法辨識|用語) ?'({names})'",
    )
