"""Show what `import`, `export` and `push` did."""

from typing import Any

from tunesmith.i18n import say


def export_lines(result: dict[str, Any]) -> str:
    """Show the written files with their sizes, and what verified them."""
    lines = [f"{result['out']}: {result['to']}, {result['dtype']}"]
    lines += [f"  {name}: {size / 1e3:,.0f} kB" for name, size in result["files"].items()]
    if result["adapter"]:
        lines.append(say("the adapter {adapter} is merged into {base}", adapter=result["adapter"], base=result["base"]))
    found = result["verified"]
    if found["texts"]:
        lines.append(
            say(
                "verified with {by}: {equal_texts} of {texts} texts are the same, logits differ by at most "
                "{difference:.2g}",
                by=found["by"],
                equal_texts=found["equal_texts"],
                texts=found["texts"],
                difference=found["largest_logit_difference"],
            )
        )
    else:
        lines.append(
            say(
                "verified by reading it back with {by}: every weight is there, rounded by {difference:.2g} at most",
                by=found["by"],
                difference=found["largest_logit_difference"],
            )
        )
    return "\n".join(lines)


def import_lines(result: dict[str, Any]) -> str:
    """Show what was found, and what to do with it."""
    lines = [
        say(
            "{out}: {kind}, {parameters:,} parameters",
            out=result["out"],
            kind=result["kind"],
            parameters=result["parameters"],
        ),
        say(
            "{n_layer} layers, {n_embd} wide, {n_head} heads, {n_positions:,} positions, {vocab_size:,} tokens, "
            "{activation_function}",
            n_layer=result["n_layer"],
            n_embd=result["n_embd"],
            n_head=result["n_head"],
            n_positions=result["n_positions"],
            vocab_size=result["vocab_size"],
            activation_function=result["activation_function"],
        ),
        say("tokenizer: {tokenizer}", tokenizer=result["tokenizer"]),
        *result["notices"],
        say("read back, every bit the same; next: tunesmith generate {out}", out=result["out"]),
    ]
    return "\n".join(lines)


def push_lines(result: dict[str, Any]) -> str:
    """Show what was uploaded, and how others use it."""
    lines = [say("{url}: {count} files", url=result["url"], count=len(result["files"]))]
    lines += [f"  {name}: {size / 1e3:,.0f} kB" for name, size in result["files"].items()]
    return "\n".join([*lines, *result["notices"], say("use it with: tunesmith generate {repo}", repo=result["repo"])])
