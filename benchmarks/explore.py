"""How long the page to play with takes to answer a change: in a browser, from a control to the drawn page.

    .venv/bin/python -m benchmarks.explore

Every change goes through the websocket to the server and back; it has arrived when the command line on the page says
what was asked, after the numbers and the charts were handed over, and the browser has painted once more.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from figures.explore.question import Question
from figures.explore.study import study
from tests.browser import browser, found

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 7
FORMS: dict[str, dict[str, Any]] = {
    "curve": {"form": "curve"},
    "curve with bounds": {"form": "curve", "max_weight": "3", "monotone": "decreasing"},
    "table, M = 8": {"form": "table", "group_size": "8"},
    "table, M = 16": {"form": "table", "group_size": "16"},
    "table, M = 64": {"form": "table", "group_size": "64"},
    "read at K/M, M = 16": {"form": "plug-in", "group_size": "16"},
}
STARTS = ("0.02", "0.01", "0.05")
# Sets a control of the page by its CSS class; its value is what Bokeh calls it.
SET = """((name, value) => {
  const models = [...Bokeh.documents[0]._all_models.values()];
  models.find(each => each.css_classes?.includes(name) && !each.css_classes.includes("slider")).value = value;
})"""


def main() -> None:
    """Print a line for each form of question."""
    process = subprocess.Popen(
        [sys.executable, "-m", "weightopt", "explore", "--no-browser"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1].rstrip(",")
        with browser() as page:
            page.size(1360, 950)
            page.open(address)
            page.wait(found("tr.own"))
            print(f"{'question':<22} {'median':>8} {'longest':>8}   of which solved on the server, median")
            for label, words in FORMS.items():
                for name, value in {"start": "0.01", "max_weight": "", "monotone": "", **words}.items():
                    page.run(f"{SET}({json.dumps(name)}, {json.dumps(value)})")
                page.wait(f"{found('pre')}?.textContent === {json.dumps(_line(Question(**words)))}")
                seconds, solved = [], []
                for number in range(ROUNDS):
                    asked = Question(**{**words, "start": STARTS[number % len(STARTS)]})
                    seconds.append(page.run(_change(asked.start, _line(asked))) / 1e3)
                    begin = time.perf_counter()
                    study(asked)
                    solved.append(time.perf_counter() - begin)
                print(
                    f"{label:<22} {statistics.median(seconds):>6.3f} s {max(seconds):>6.3f} s   "
                    f"{statistics.median(solved):.3f} s"
                )
    finally:
        process.terminate()
        process.wait()


def _line(question: Question) -> str:
    return " ".join(["weightopt", *question.words()])


def _change(start: str, line: str) -> str:
    """Milliseconds from setting the start to the painted page that says the command line."""
    return f"""new Promise(done => {{
      const pane = {found("pre")}.getRootNode();
      const begin = performance.now();
      {SET}("start", {json.dumps(start)});
      const look = () => pane.querySelector("pre")?.textContent === {json.dumps(line)}
        ? requestAnimationFrame(() => done(performance.now() - begin)) : setTimeout(look, 4);
      look();
    }})"""


if __name__ == "__main__":
    main()
