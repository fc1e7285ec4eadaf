"""The verb `report`, and what is written at the end of every training."""

from pathlib import Path
from typing import Any

from tunesmith.config import ReportConfig
from tunesmith.errors import UserError
from tunesmith.files import write_text
from tunesmith.reporting.advice import advice_for
from tunesmith.reporting.page import report_page
from tunesmith.reporting.run_record import describe_run, read_run
from tunesmith.reporting.verdict import verdict_on
from tunesmith.run_dir import REPORT


def write_report(config: ReportConfig) -> dict[str, Any]:
    """Read a run and write its report.

    Raises:
        UserError: if the folder is no run, or the file cannot be written there.
    """
    folder = Path(config.run)
    if config.novelty < 0:
        raise UserError("--novelty {count} makes no sense", hint="write 0 or more", count=config.novelty)
    if config.novelty:
        describe_run(folder)  # before a model is loaded
        from tunesmith.reporting.measure_novelty import measure_novelty

        measure_novelty(folder, n_texts=config.novelty, seed=config.seed)
    run = read_run(folder)
    path = Path(config.out) if config.out else folder / REPORT
    if path.is_dir():
        raise UserError("--out {path} is a folder", hint="name a file, for example {path}/report.html", path=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = report_page(run)
    write_text(path, page)
    return {
        "report": str(path),
        "bytes": len(page.encode()),
        "verdict": verdict_on(run).sentence,
        "advice": [
            {"rule": one.rule, "title": one.title, "evidence": one.evidence, "action": one.action}
            for one in advice_for(run)
        ],
    }
