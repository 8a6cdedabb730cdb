"""A schedule as a picture: time runs to the right, ranks go down, an arrow is a message.

An arrow leaves its sender at the beginning of a step and reaches its receiver at the end, in the colour of what happens
there. Where there are few, it carries the chunks' numbers.
"""

from __future__ import annotations

from pathlib import Path

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.schedules.messages import Step, walk
from pyhpc.kernels.schedules.schedule import Algorithm

MOST_ARROWS = 20_000  # more would be a black square
MOST_LABELS = 150
COLOURS = {True: "#c1440e", False: "#1f6fb2"}  # combined, copied


def draw(algorithm: Algorithm, ranks: int, file: Path) -> None:
    """Write the picture to `file`, whose ending says how: .svg, .png or .pdf.

    Raises:
        InvalidArgument: more messages than a picture can show, or an ending that is unknown.
    """
    if algorithm.messages(ranks) > MOST_ARROWS:
        raise InvalidArgument(f"{algorithm.messages(ranks)} messages are too many for a picture; ask for fewer ranks")
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    steps = list(walk(algorithm, ranks))
    figure = Figure(figsize=(min(24, 2.5 + 1.1 * len(steps)), min(16, 1.6 + 0.45 * ranks)), layout="constrained")
    axes = figure.add_subplot()
    for number, step in enumerate(steps):
        _draw_step(axes, number, step, algorithm.messages(ranks) <= MOST_LABELS)
    for rank in range(ranks):
        axes.axhline(rank, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set(xlim=(-0.1, len(steps) + 0.1), ylim=(ranks - 0.5, -0.5), xlabel="step", ylabel="rank")
    axes.set_title(f"{algorithm.name} on {ranks} ranks, {algorithm.chunks(ranks)} chunks", loc="left")
    axes.set_xticks(range(len(steps) + 1) if len(steps) <= 40 else [])
    axes.set_yticks(range(ranks) if ranks <= 40 else [])
    axes.spines[:].set_visible(False)
    meaning = {True: "combined", False: "copied"}
    figure.legend(
        [Line2D([], [], color=COLOURS[reduced]) for reduced in meaning], meaning.values(), loc="outside upper right"
    )
    try:
        figure.savefig(file, dpi=150)
    except ValueError as error:
        raise InvalidArgument(f"cannot draw {file}: {error}") from None


def _draw_step(axes: object, number: int, step: Step, labels: bool) -> None:
    ends = (step.sends.rank, step.receives.rank, step.sends.first, step.sends.last, step.reduced)
    for source, target, first, last, reduced in zip(*(column.tolist() for column in ends), strict=True):
        begin, end = (number + 0.06, source), (number + 0.94, target)
        axes.annotate(  # type: ignore[attr-defined]  # matplotlib's axes
            "", end, begin, arrowprops={"arrowstyle": "->", "color": COLOURS[reduced], "linewidth": 1.1}
        )
        if labels:
            # A quarter of the way along, where few arrows cross.
            at = (begin[0] * 0.76 + end[0] * 0.24, source * 0.76 + target * 0.24)
            text = str(first) if last == first + 1 else f"{first}–{last - 1}"
            box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}
            axes.text(*at, text, fontsize=7, ha="center", va="center", bbox=box)  # type: ignore[attr-defined]
