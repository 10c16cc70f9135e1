"""Mathematical problems from a file or a hub data set, such as GSM8K and MATH."""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from rl.errors import UsageError, refusing
from rl.hub import FORM, is_hub_name, read_hub_name
from rl.tasks.config import Template, TextTaskConfig
from rl.tasks.extraction import RULES, Form
from rl.tasks.math_verifier import MathVerifier, Reference
from rl.tasks.protocol import Prompt
from rl.tasks.split import ProblemList
from weightopt.settings import can_be_opened

Row = Mapping[str, Any]

JSON_LINES = "a .jsonl or .json file must be JSON lines, one object a line and no array around them"
# Of a number in a file; with a larger one it would have too many digits to be written out.
LARGEST_EXPONENT = 308


Source = Annotated[str, Field(min_length=1), AfterValidator(can_be_opened)]


class MathConfig(TextTaskConfig):
    """``[task]`` with ``name = "gsm8k"`` or ``"math"``: problems from a file, judged by math-verify.

    Columns and ``reference`` follow the published files of the name.
    """

    train: Source
    """A .jsonl, .json or .parquet file, or a data set of the hub, hub:owner/name[@revision]."""
    held_out: Source | None = None
    """The same for held-out problems; without any, one problem in eight is held out."""
    subset: str | None = None
    """Subset of a data set of the hub."""
    train_split: Annotated[str, Field(min_length=1)] = "train"
    """Split of a data set of the hub to train on."""
    held_out_split: Annotated[str, Field(min_length=1)] | None = None
    """Split of a data set of the hub that is held out."""
    question_column: Annotated[str, Field(min_length=1)] = "question"
    """Column of the question; "problem" for math."""
    answer_column: Annotated[str, Field(min_length=1)] = "answer"
    """Column of the solution; "solution" for math."""
    difficulty_column: Annotated[str, Field(min_length=1)] | None = None
    """Column that names the stratum of a problem."""
    reference: Literal["hashes", "boxed", "whole"] = "hashes"
    """Where a solution gives its answer: after ####, in \\boxed{} (for math), or all of it."""
    without_answer: Literal["refuse", "drop"] = "refuse"
    """What happens to rows without an answer, such as \\boxed{}: refused, or dropped and counted."""
    answer: Form = "boxed"
    """Where a response must give the answer."""
    template: Template = "{question}\n\nThink step by step, and give the final answer within \\boxed{}.\n"
    """Text of a prompt, with the question in the place of {question}."""

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, document: Any) -> Any:
        """The columns of MATH are not those of GSM8K."""
        if isinstance(document, Mapping) and document.get("name") == "math":
            return {"question_column": "problem", "answer_column": "solution", "reference": "boxed", **document}
        return document

    def build(self) -> ProblemList:
        """The problems.

        Raises
        ------
        UsageError
            If a file cannot be read, a column is absent, a row has no answer in the form it should have (unless such
            rows are dropped) or one that is no answer, or if no problem is left to train on.
        """
        notes: list[str] = []
        training = _prompts(self.train, self.train_split, self, notes)
        if self.held_out is None and self.held_out_split is None:
            problems = ProblemList.divide(training, notes=notes)
        else:
            source, split = self.held_out or self.train, self.held_out_split or self.train_split
            problems = ProblemList.of_two_sides(training, _prompts(source, split, self, notes), notes=notes)
        if not problems.training:
            raise UsageError(f"task.train is {self.train!r}, which leaves no problem to train on")
        return problems

    def verifier(self) -> MathVerifier:
        """As `TaskConfig.verifier`."""
        return MathVerifier(self.answer)

    def data_files(self) -> dict[str, Path]:
        """As `TaskConfig.data_files`; data sets of the hub are not among them."""
        return {key: Path(source) for key, source in self._sources().items() if not is_hub_name(source)}

    def packages(self) -> tuple[str, ...]:
        """As `TaskConfig.packages`."""
        pyarrow = ["pyarrow"] if any(file.suffix == ".parquet" for file in self.data_files().values()) else []
        datasets = ["datasets"] if any(map(is_hub_name, self._sources().values())) else []
        return ("math-verify", "latex2sympy2_extended", "sympy", *pyarrow, *datasets)

    def _sources(self) -> dict[str, str]:
        return {"train": self.train, **({"held_out": self.held_out} if self.held_out else {})}


def canonical_name(question: str) -> str:
    """The name of a problem: 64 bits of a hash of its text, in which blanks, case and variants of letters are one."""
    plain = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", question).casefold()).strip()
    return sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _prompts(source: str, split: str, config: MathConfig, notes: list[str]) -> list[Prompt[Reference]]:
    """All problems of a source, in its order; what the user should know of it is added to ``notes``."""
    prompts = []
    number = dropped = 0
    for number, row in enumerate(_rows(source, split, config.subset), start=1):
        place = f"row {number} of {source!r}"
        question = _text(row, config.question_column, place)
        solution = _text(row, config.answer_column, place)
        answer = (RULES[config.reference](solution) or "").strip()
        if not answer and config.without_answer == "drop":
            dropped += 1
            continue
        if not answer:
            raise UsageError(
                f"{place} has no answer in column {config.answer_column!r} where task.reference = "
                f"{config.reference!r} looks for it: {solution[-60:]!r}; to leave such rows out set "
                'task.without_answer = "drop"'
            )
        if answer.casefold() == "nan":
            raise UsageError(f"{place} has {answer!r} for an answer in column {config.answer_column!r}, which is none")
        difficulty = _text(row, config.difficulty_column, place) if config.difficulty_column else "all"
        prompts.append(
            Prompt(
                id=canonical_name(question),
                text=config.template.replace("{question}", question),
                difficulty=difficulty,
                problem=Reference(answer=answer),
            )
        )
    if not number:
        raise UsageError(f"{source!r} is empty: it has no problem")
    if dropped:
        notes.append(f"{dropped} of {number} rows of {source!r} are left out: they have no answer")
    return prompts


def _text(row: Row, column: str, place: str) -> str:
    """A value of a row as text; ``a.b`` is the value b inside the value a."""
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise UsageError(f"{place} has no column {column!r}; it has {', '.join(map(repr, row))}")
        value = value[key]
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return f"{Decimal(repr(value)):f}"  # in digits, as people write it: 0.00001 and not 1e-05
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) <= LARGEST_EXPONENT:
        return f"{value:f}"
    raise UsageError(f"{place} has {value!r} in column {column!r}: text or a finite number is needed")


def _rows(source: str, split: str, subset: str | None) -> Iterable[Row]:
    if is_hub_name(source):
        return _hub_rows(source, split, subset)
    path = Path(source)
    reader = READERS.get(path.suffix)
    if reader is None:
        raise UsageError(
            f"data file {source!r} is of another kind, or not there: files are read that end in .jsonl, .json or "
            f".parquet; a data set of the hub is named {FORM}"
        )
    with refusing(f"data file {source!r} cannot be read", OSError):
        return list(reader(path))


def _json_lines(path: Path) -> Iterator[Row]:
    try:
        # Not splitlines: JSON texts may hold U+2028 and other characters that end a line for Python as they are.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"data file {str(path)!r} is not UTF-8 text") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_float=Decimal)  # the digits as they stand, and not the nearest float
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise UsageError(f"line {number} of {str(path)!r} is not JSON: {JSON_LINES}") from error
        if not isinstance(row, dict):
            raise UsageError(f"line {number} of {str(path)!r} is not a JSON object: {JSON_LINES}")
        yield row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise UsageError(f"data file {str(path)!r} is not a parquet file") from error
    yield from table.to_pylist()


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_lines,
    ".parquet": _parquet,
}


def _hub_rows(name: str, split: str, subset: str | None) -> Iterable[Row]:
    owner_and_name, revision = read_hub_name(name, key="data set")
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UsageError(
            f"for {name!r}, a data set of the hub, the package datasets is needed: pip install datasets"
        ) from error
    with refusing(f"data set {name!r} cannot be loaded", Exception):  # whatever network, hub or data set lead to
        return datasets.load_dataset(owner_and_name, subset, split=split, revision=revision)
