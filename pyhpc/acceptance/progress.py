"""Live progress of a run: what runs, what is left. A bar on a terminal, one line a step in a log file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pyhpc.acceptance.plan import Plan, Step
from pyhpc.measure.measurement import Measurement


class Watch:
    """A context manager that shows a run; implements pyhpc.acceptance.run.Progress."""

    def __init__(self, plan: Plan, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._left = [step.name for step in plan.steps if step.skip is None]
        self._total = len(self._left)
        self._step_started = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=self._total, detail="")

    def __enter__(self) -> Watch:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin_step(self, step: Step, attempt: int) -> None:
        """Show that an attempt of a step starts."""
        again = f" (attempt {attempt})" if attempt > 1 else ""
        self._step_started = time.monotonic()
        left = [name for name in self._left if name != step.name]
        detail = f"then {', '.join(left[:3])}{' …' if len(left) > 3 else ''}" if left else "last step"
        self._bar.update(self._task, description=f"{step.name}{again}", detail=detail)

    def at(self, rank: int, case: str, phase: str) -> None:
        """Show what a rank is doing."""
        if case:
            self._bar.update(self._task, detail=f"{phase} {case}" + (f" on rank {rank}" if rank else ""))

    def end_step(self, step: Step, attempt: int, measurements: Sequence[Measurement]) -> None:
        """Print the step's line."""
        if step.name in self._left:
            self._left.remove(step.name)
            self._bar.update(self._task, completed=self._total - len(self._left))
        bad = sum(1 for m in measurements if m.error is not None or m.verification.wrong_samples)
        told = f"[red]{bad} of {len(measurements)} records bad[/red]" if bad else f"{len(measurements)} records"
        again = f", attempt {attempt}" if attempt > 1 else ""
        seconds = time.monotonic() - self._step_started
        done = self._total - len(self._left)
        self.console.print(
            f"[dim]{done:2d}/{self._total}[/dim] {step.name}{again}: {told} in {seconds:.1f} s", highlight=False
        )
