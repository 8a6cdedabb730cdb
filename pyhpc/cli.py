"""The command line: list, info, bench, tune, schedule, plan, accept, judge, report. Each handler calls one function.

Exit status: 0 ACCEPTED (or done), 1 REJECTED (or wrong results), 3 INCOMPLETE (or could not be done), 2 wrong usage.
Nothing heavy is imported before a command is known: `pyhpc --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from pyhpc import __version__
from pyhpc.errors import ConfigError, InvalidArgument, PyhpcError

_WRONG_USAGE, _NOT_DONE = 2, 3


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit with its status; what is wrong is told in one sentence."""
    try:
        status = commands.main(args=arguments, prog_name="pyhpc", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        status = _WRONG_USAGE
    except click.ClickException as error:
        error.show()
        status = _WRONG_USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("pyhpc: interrupted", err=True)
        status = _NOT_DONE
    except PyhpcError as error:
        click.echo(f"pyhpc: {error}", err=True)
        status = _WRONG_USAGE if isinstance(error, ConfigError | InvalidArgument) else _NOT_DONE
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="pyhpc %(version)s")
def commands() -> None:
    """HPC kernels, and the acceptance of the machines they run on."""


class _Bytes(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A number of bytes as nccl-tests writes it: 8, 64K, 8M, 1G; the letters are powers of two."""

    name = "bytes"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        text = str(value).upper()
        factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        digits = text if factor == 1 else text[:-1]
        if not digits.isdecimal():
            self.fail(f"{value!r} is no size: write 8, 64K, 8M or 1G", parameter, context)
        return int(digits) * factor


@commands.command(name="list")
@click.option("--status", is_flag=True, help="Also where each variant has been run.")
def list_command(status: bool) -> None:
    """What is here: kernels, variants, suites, workloads, launchers, formats."""
    from pyhpc.listing import lines

    click.echo("\n".join(lines(status)))


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def info(as_json: bool) -> None:
    """This machine, as it is recorded in a run, and the parts that are absent."""
    from pyhpc.listing import machine_lines
    from pyhpc.machine import probe

    click.echo(probe().model_dump_json(indent=1) if as_json else "\n".join(machine_lines()))


@commands.command()
@click.argument("suite", default="quick")
@click.option("--ranks", type=click.IntRange(min=1), help='What "cores" means in the suite; default: every core.')
def plan(suite: str, ranks: int | None) -> None:
    """Print what `accept SUITE` would do here, and run nothing.

    SUITE is a TOML file or a bundled suite's name (see `pyhpc list`); default: quick.
    """
    from pyhpc.acceptance.accept import plan_of

    click.echo(str(plan_of(suite, ranks)))


@commands.command()
@click.argument("suite", default="quick")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with a run that was interrupted.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The run folder; default: a new one here.")
@click.option("--ranks", type=click.IntRange(min=1), help='What "cores" means in the suite; default: every core.')
def accept(suite: str, resume: Path | None, out: Path | None, ranks: int | None) -> int:
    """Measure this machine, judge it and report: ACCEPTED 0, REJECTED 1, INCOMPLETE 3.

    SUITE is a TOML file or a bundled suite's name (see `pyhpc list`); default: quick. Start it alone, or on every rank
    with mpiexec or srun.
    """
    from pyhpc.acceptance.accept import accept as run

    if resume is not None and out is not None:
        raise ConfigError("--resume goes on in its own folder: leave --out away")
    return run(suite, out, resume, ranks)


@commands.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--suite", help="Judge by the limits of this suite instead of the run's own.")
def judge(run: Path, suite: str | None) -> int:
    """Judge the stored records of RUN again; exit status as `accept`."""
    from pyhpc.acceptance.accept import report_of
    from pyhpc.acceptance.formats.text import render
    from pyhpc.acceptance.report import EXIT_STATUS

    report = report_of(run, suite)
    click.echo(render(report), nl=False)
    return EXIT_STATUS[report.answer]


@commands.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "names", multiple=True, help="text, json, junit, html; repeatable; default: all.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write; default: the run folder.")
def report(run: Path, names: tuple[str, ...], out: Path | None) -> None:
    """Write the reports of a stored RUN again."""
    from pyhpc.acceptance.accept import report_of
    from pyhpc.acceptance.report import write_outputs

    for path in write_outputs(report_of(run), out or run, names or None):
        click.echo(path)


class _Bench(click.Group):
    """One command a kernel: the folder of kernels is the list."""

    def list_commands(self, context: click.Context) -> list[str]:
        from pyhpc.kernels.kernel import kernels

        return list(kernels())

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name == "allreduce":
            return _bench_allreduce
        return _bench_kernel(name) if name in self.list_commands(context) else None


@commands.group(cls=_Bench)
def bench() -> None:
    """Compare kernels with other libraries: every result verified, all taking turns."""


def _split(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    return [word for value in values for word in value.split(",") if word]


def _bench_kernel(kernel: str) -> click.Command:
    def handler(**options: Any) -> int:
        from pyhpc.bench import bench_command

        threads = [int(count) for count in options.pop("threads")]
        return bench_command(kernel, threads=threads or (1, 0), **options)

    several: dict[str, Any] = {"multiple": True, "callback": _split}
    options: list[click.Parameter] = [
        click.Option(["--shapes"], help="Such as 1024x1024x1024; comma-separated or repeated.", **several),
        click.Option(["--dtype", "dtypes"], help="float32, bfloat16, ...; comma-separated or repeated.", **several),
        click.Option(
            ["--vs"], help="Peers and own variants: numpy, torch, avx2, numba; default: every peer.", **several
        ),
        click.Option(["--threads"], help="Thread counts; 0: all cores. Default: 1 and all.", **several),
        click.Option(["--json", "json_path"], metavar="FILE", help="Also write all figures as JSON."),
        click.Option(["--plot", "plot_path"], metavar="FILE", help="Also draw them: .png, .svg or .pdf."),
    ]
    return click.Command(kernel, params=options, callback=handler, help=f"Compare {kernel} with its peers.")


@commands.group()
def tune() -> None:
    """Measure which of several ways is the fastest on this machine, and write that to a file."""


@tune.command(name="allreduce")
@click.option("--out", type=click.Path(path_type=Path), default="allreduce_rule.json", show_default=True)
@click.option("-e", "--maxbytes", type=_Bytes(), default="64M", show_default=True, help="Largest size.")
@click.option("-n", "--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Turns of each way.")
@click.option("--ranks", type=click.IntRange(min=2), help="Started alone: how many ranks; default: every core.")
def _tune_allreduce(out: Path, maxbytes: int, rounds: int, ranks: int | None) -> int:
    """How vectors travel fastest inside this node: the table that PYHPC_ALLREDUCE_RULE=FILE puts into effect."""
    from pyhpc.tuning.allreduce_rule import tune_allreduce

    return tune_allreduce(out, maxbytes, rounds, ranks)


@commands.command()
@click.argument("name")
@click.option("-p", "--ranks", type=click.IntRange(min=1), required=True, help="How many ranks.")
@click.option("--ranks-per-node", type=click.IntRange(min=1), help="For hierarchical; default: 8.")
@click.option(
    "--leaders", type=click.IntRange(min=1), help="For hierarchical: lanes between nodes; default: all ranks."
)
@click.option("--rank", type=click.IntRange(min=0), help="Write out only the schedule of this rank.")
@click.option("--prove", is_flag=True, help="Show by symbolic execution that it is an all-reduce.")
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE", help="Draw it: .svg, .png or .pdf.")
@click.option("--price", multiple=True, type=_Bytes(), metavar="SIZE", help="Seconds for 1K, 16M, ...; repeatable.")
@click.option("--topology", type=click.Path(path_type=Path), metavar="FILE", help="TOML or JSON; default: a cluster.")
def schedule(**options: Any) -> None:
    """Write out how the all-reduce algorithm NAME (see `pyhpc list`) goes on so many ranks; prove, draw, price it."""
    from pyhpc.schedule import Wish, lines

    for line in lines(Wish(**options)):
        click.echo(line)


@click.command(name="allreduce")
@click.option("-b", "--minbytes", type=_Bytes(), default="8", show_default=True, help="Smallest size.")
@click.option("-e", "--maxbytes", type=_Bytes(), default="16M", show_default=True, help="Largest size.")
@click.option("-f", "--stepfactor", type=int, default=16, show_default=True, help="Factor between sizes.")
@click.option("-n", "--iters", "iterations", type=int, default=10, show_default=True, help="Timed iterations.")
@click.option("-w", "--warmup_iters", "warmup", type=int, default=5, show_default=True, help="Untimed iterations.")
@click.option("-d", "--datatype", "dtype", default="float32", show_default=True, help="Element type.")
@click.option("-o", "--op", default="sum", show_default=True, help="sum, prod, min or max.")
@click.option(
    "--algorithms",
    default="auto,window,mpi",
    show_default=True,
    help="window: shared arrays; mpi: MPI_Allreduce.",
)
@click.option("--cache", "caches", default="warm,cold", show_default=True, help="Of the buffers before a call.")
@click.option("--ranks", type=click.IntRange(min=1), help="Started alone: how many ranks; default: every core.")
@click.option("--launches", type=click.IntRange(min=1), default=5, show_default=True, help="Started alone: how often.")
@click.option("--mpi", "libraries", default="", help="Started alone: libmpi.so,...; default: this Python's MPIs.")
@click.option(
    "--thread-level",
    "thread_levels",
    default="single,multiple",
    show_default=True,
    help="Started alone: of MPI.",
)
@click.option("-J", "--json", "json_path", metavar="FILE", help="Also write JSON with nccl-tests' keys.")
def _bench_allreduce(minbytes: int, maxbytes: int, stepfactor: int, **options: Any) -> int:
    """The table of nccl-tests: algbw, busbw and #wrong by size, for our algorithms and MPI_Allreduce.

    Under mpiexec the table of this launch; started alone, one of several launches on each MPI and thread level.
    """
    from pyhpc.bench.ranks import bench_allreduce

    lists = ("algorithms", "caches", "libraries", "thread_levels")
    options |= {name: tuple(word for word in options[name].split(",") if word) for name in lists}
    launches = {name: options.pop(name) for name in ("ranks", "launches", "libraries", "thread_levels")}
    return bench_allreduce(sizes=(minbytes, maxbytes, stepfactor), launches=launches, **options)
