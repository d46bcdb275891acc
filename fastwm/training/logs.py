"""Logs of a run: CSV files that a resumed run continues exactly, and TensorBoard."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fastwm.models.storage import write_atomically


class CSVLog:
    """One row per step; flushed per row. Opening it drops rows after `last_step` and a row cut short."""

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str], *, last_step: int) -> None:
        self.columns = list(columns)
        kept = self._rows_up_to(Path(path), last_step)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([self.columns, *kept])
        write_atomically(path, text.getvalue().encode())
        self._file = open(path, "a", newline="")  # noqa: SIM115
        self._writer = csv.writer(self._file, lineterminator="\n")

    def write(self, row: Mapping[str, float | int | None]) -> None:
        """Values by column; None leaves the cell empty. Floats are written in full precision."""
        try:
            self._writer.writerow(["" if row[name] is None else repr(row[name]) for name in self.columns])
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error

    def close(self) -> None:
        self._file.close()

    def _rows_up_to(self, path: Path, last_step: int) -> list[list[str]]:
        if not path.is_file():
            return []
        try:
            lines = path.read_text().splitlines(keepends=True)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        rows = list(csv.reader(line for line in lines if line.endswith("\n")))
        if not rows or rows[0] != self.columns:
            raise ValueError(
                f"{path} is not a log of this run: its columns are not {', '.join(self.columns)}"
            )
        whole = [row for row in rows[1:] if len(row) == len(self.columns)]
        if strange := next((row[0] for row in whole if not row[0].isdecimal()), None):
            raise ValueError(f"{path} is damaged: expected a step at the beginning of a row, got {strange!r}")
        return [row for row in whole if int(row[0]) <= last_step]


class TensorBoardLog:
    """Scalars for TensorBoard, or nothing when not `enabled`."""

    def __init__(self, directory: str | os.PathLike[str], *, enabled: bool, last_step: int) -> None:
        self._writer: Any = None
        if enabled:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    "TensorBoard logs need the package tensorboard: install it, or set tensorboard=False"
                ) from error
            self._writer = SummaryWriter(str(directory), purge_step=last_step + 1)

    def write(self, prefix: str, step: int, values: Mapping[str, float | int | None]) -> None:
        if self._writer is None:
            return
        for name, value in values.items():
            if value is not None and name != "step":
                self._writer.add_scalar(f"{prefix}/{name}", value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class RunLogs:
    """The logs of one run directory: `metrics.csv`, `validation.csv`, `tensorboard/`.

    The CSV files hold nothing that depends on the clock, so that two equal runs write equal files.
    """

    def __init__(
        self,
        run_dir: Path,
        losses: Sequence[str],
        measures: Sequence[str],
        *,
        tensorboard: bool,
        last_step: int,
    ) -> None:
        self.tensorboard = TensorBoardLog(run_dir / "tensorboard", enabled=tensorboard, last_step=last_step)
        self.metrics = CSVLog(
            run_dir / "metrics.csv",
            ("step", "loss", *losses, "gradient_norm", "learning_rate"),
            last_step=last_step,
        )
        self.validation = CSVLog(run_dir / "validation.csv", ("step", *measures), last_step=last_step)

    def __enter__(self) -> RunLogs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for log in (self.metrics, self.validation, self.tensorboard):
            log.close()
