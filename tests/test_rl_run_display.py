"""The live display: what it says follows from the records, it fits the terminal, and elsewhere there are only lines."""

import io
import random
from pathlib import Path

import pytest
from rich.console import Console

from rl.records.metrics import EvaluationRecord, StepRecord, TimingRecord, append_lines, line_of
from rl.run.display.progress import Progress, columns, sparkline

M = 4


def step_record(step: int, histogram: tuple[int, ...] = (2, 1, 0, 0, 1)) -> StepRecord:
    size = len(histogram) - 1
    right = sum(k * count for k, count in enumerate(histogram))
    return StepRecord(
        step=step,
        responses_so_far=step * sum(histogram) * size,
        tokens=160,
        reward=right / (size * sum(histogram)),
        success_histogram=histogram,
        all_wrong=histogram[0] / sum(histogram),
        all_right=histogram[-1] / sum(histogram),
        mean_abs_advantage=0.1,
        distinct_responses=3,
        gradient_norm=1.0,
        clipped=False,
        entropy=1.0,
        finished=1.0,
    )


def evaluation(step: int, success: float, warning: str | None = None) -> EvaluationRecord:
    return EvaluationRecord(
        step=step,
        responses_so_far=step * 16,
        success=success,
        success_low=success - 0.01,
        success_high=success + 0.01,
        by_difficulty={"easy": success},
        prompts=4,
        samples=2,
        temperature=1.0,
        warning=warning,
    )


def timing(step: int) -> TimingRecord:
    return TimingRecord(step=step, sampling=0.25, verifying=0.0, learning=0.5, hand_over=0.05, evaluating=8.0)


def terminal(width: int = 100, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return Console(file=file, force_terminal=True, width=width, highlight=False)


def drawn(progress: Progress, console: Console) -> list[str]:
    with console.capture() as capture:
        console.print(progress.render())
    plain = Console(file=io.StringIO(), width=500)
    from rich.text import Text

    plain.print(Text.from_ansi(capture.get()))
    return [line.rstrip() for line in plain.file.getvalue().splitlines() if line.strip()]  # pyright: ignore


def run(console: Console, *, size: int = M) -> Progress:
    progress = Progress(quiet=False, name="Sqrt-R", steps=40, console=console)
    progress.catch_up(Path("nowhere"))
    progress.evaluated(evaluation(0, 0.1))
    for step in range(1, 31):
        progress.stepped(step_record(step, (2, 1, *[0] * (size - 2), 1)))
        if step % 10 == 0:
            progress.evaluated(evaluation(step, {10: 0.2, 20: 0.8, 30: 0.4}[step]))
        progress.timed(timing(step))
    return progress


def test_it_says_what_the_records_say() -> None:
    console = terminal()
    bar, held_out, training, *chart, axis, throughput, seconds = drawn(run(console), console)
    assert bar.startswith("Sqrt-R ")
    assert " 30/40 " in bar
    assert held_out.split() == ["held-out", "▁▂█▄", "40.0%", "[39.0%,", "41.0%],", "best", "80.0%"]
    assert training.split()[0] == "training"
    assert training.endswith(f"{5 / 16:.1%} in the last 20 steps")
    # 20 steps of (2, 1, 0, 0, 1): of three lines the highest bar fills all, one half as high one and a half.
    assert [line[15:24] for line in chart] == ["█        ", "█ ▄     ▄", "█ █     █"]
    assert [line[24:].split("  ")[-1].strip() for line in chart] == ["all wrong 50%", "mixed 25%", "all right 25%"]
    assert axis.split() == ["0", "4", "right"]
    # 16 responses and 160 tokens in 0.8 seconds without the evaluation.
    assert throughput.split(maxsplit=1) == ["throughput", "20 responses/s, 200 tokens/s"]
    assert seconds.split(maxsplit=1) == ["seconds/step", "sampling 0.25, learning 0.5, hand-over 0.05, evaluating 8"]


@pytest.mark.parametrize("size", [2, 3, 16, 1000])
@pytest.mark.parametrize("width", [20, 80, 200])
def test_it_fits(width: int, size: int) -> None:
    console = terminal(width)
    lines = drawn(run(console, size=size), console)
    assert max(map(len, lines)) <= width
    if width >= 80:
        assert len(lines) == 9
        assert not any("…" in line for line in lines)


def test_before_the_first_record_and_in_the_supervised_phase() -> None:
    console = terminal()
    progress = Progress(quiet=False, name="GRPO", steps=5, console=console)
    assert len(drawn(progress, console)) == 1
    progress.supervised(evaluation(20, 0.05))
    assert drawn(progress, console)[1].split() == ["supervised", "step", "20:", "5.0%"]
    progress.evaluated(evaluation(0, 0.05))
    assert [line.split()[0] for line in drawn(progress, console)[1:]] == ["held-out"]


def test_a_terminal_without_blocks_gets_the_numbers() -> None:
    console = terminal(encoding="latin-1")
    with run(console) as progress:
        progress.stepped(step_record(31))
        lines = [line.encode("latin-1") for line in drawn(progress, console)[1:]]
    assert lines[0].split() == b"held-out 40.0% [39.0%, 41.0%], best 80.0%".split()
    assert lines[2].split() == b"groups, M=4 all wrong 50%, mixed 25%, all right 25%".split()


def test_it_goes_on_where_the_files_are(tmp_path: Path) -> None:
    records = (evaluation(0, 0.1), step_record(1), step_record(2), evaluation(2, 0.3))
    append_lines(tmp_path / "metrics.jsonl", map(line_of, records))
    console = terminal()
    progress = Progress(quiet=False, name="GRPO", steps=4, console=console)
    progress.catch_up(tmp_path)
    lines = drawn(progress, console)
    assert " 2/4 " in lines[0]
    assert lines[1].split()[:3] == ["held-out", "▃█", "30.0%"]
    assert lines[2].endswith("in the last 2 steps")


def test_elsewhere_than_on_a_terminal_there_are_only_lines() -> None:
    file = io.StringIO()
    with Progress(quiet=False, name="GRPO", steps=4, console=Console(file=file, width=60, highlight=False)) as progress:
        progress.supervised(evaluation(10, 0.02))
        progress.evaluated(evaluation(0, 0.1, "cut [off] short"))
        progress.stepped(step_record(1))
        progress.timed(timing(1))
        progress.tell("where: [a] " + "x" * 100)
        progress.evaluated(evaluation(1, 0.1, "long " * 30))
    assert file.getvalue() == (
        "supervised step   10  held-out success  2.0% [1.0%, 3.0%]  (easy 2%)\n"
        "step    0         0 responses  held-out success 10.0% [9.0%, 11.0%]  (easy 10%)\n"
        "warning: cut [off] short\n"
        "where: [a] " + "x" * 100 + "\n"
        "step    1        16 responses  held-out success 10.0% [9.0%, 11.0%]  (easy 10%)\n"
        "warning: " + "long " * 30 + "\n"
    )


def test_on_a_terminal_it_is_drawn_and_taken_away() -> None:
    console = terminal()
    with run(console):
        pass
    written = console.file.buffer.getvalue().decode()  # pyright: ignore[reportAttributeAccessIssue]
    assert "throughput" in written
    assert written.count("held-out success") == 4
    assert "\x1b[2K" in written  # lines are erased


def test_bars_grow_with_their_values() -> None:
    assert sparkline([0, 1e-9, 1, 4, 8], width=9) == " ▁▁▄█"
    assert sparkline([1, 2], width=9, top=8) == "▁▂"
    assert sparkline([0, 0], width=9) == "  "
    assert sparkline([], width=9) == ""
    assert columns([0, 1, 16, 24], height=3) == ["   █", "  ██", " ▁██"]
    rng = random.Random(0)
    for count in (1, 7, 40, 41, 999):
        values = [rng.random() for _ in range(count)]
        assert len(sparkline(values, width=40)) == min(count, 40)
    # Averaged stretches cover every value once: the mean of equally long ones is the mean of all.
    assert sparkline([0, 8, 4, 4, 8, 8], width=3, top=8) == "▄▄█"
