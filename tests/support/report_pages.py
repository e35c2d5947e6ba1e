"""What a report is made of in its tests: trials, verdicts, and a whole page."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.report.reading import read_results
from runner.report.trials import PageTrial
from runner.report.verdict.decision import Decision
from runner.report.writer import Report
from runner.storage.storage import Storage

SWEEP = {"batch_size": [2, 8], "lambda_l1": [10, 100]}
NASTY = """</script><script>document.title="taken over"</script><img src=x onerror='alert(1)'>{{ 7*7 }}&amp;"""


def trial(name: str, **row: Any) -> PageTrial:
    """A trial as the page's parts see it; `params` apart, all goes into its row of results."""
    params = row.pop("params", {})
    reason, data = row.pop("reason", ""), row.pop("data", "")
    row = {"status": "finished", **row}
    folder = Storage.open(f"nowhere/{name}")
    return PageTrial("sweep", name, name, params, row, folder, reason=reason, data=data, log=({"step": 1},))


def said(decision: Decision) -> str:
    """The verdict as a reader sees it."""
    return " ".join("".join(text for text, _ in sentence) for sentence in decision.sentences)


def page_of(*folders: Path, written_at: datetime | None = None) -> str:
    """The page of experiments, as the command makes it."""
    experiments, results = zip(*(read_results(str(folder)) for folder in folders), strict=True)
    return Report(experiments).render(results, written_at).decode()


def undated(page: Path) -> str:
    """A page without the time at which it was written."""
    text, count = re.subn(r"<time datetime=.*?</time>", "", page.read_text())
    assert count == 1
    return text
