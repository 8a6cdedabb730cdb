"""What `pyhpc list` and `pyhpc info` print: the folders are the lists, and what is absent says why."""

from __future__ import annotations

from collections.abc import Iterator


def lines(status: bool = False) -> Iterator[str]:
    """Kernels with variants and peers, suites, workloads, launchers, formats."""
    from pyhpc.acceptance.config import bundled
    from pyhpc.acceptance.formats.format import formats
    from pyhpc.acceptance.launchers.launcher import launchers
    from pyhpc.acceptance.workloads.workload import workloads

    yield from _kernel_lines(status)
    yield from ("", "suites")
    yield from (f"  {name:12} {_first_comment(path)}" for name, path in bundled().items())
    yield from ("", "workloads")
    yield from (f"  {workload.name:12} {workload.summary}" for workload in workloads().values())
    yield from ("", "launchers")
    for launcher in launchers().values():
        absence = launcher.absence()
        yield f"  {launcher.name:12} {launcher.summary}" + (f" (not now: {absence})" if absence else "")
    yield from ("", "formats")
    yield from (f"  {name:12} {form.file}" for name, form in formats().items())


def _kernel_lines(status: bool) -> Iterator[str]:
    from pyhpc.kernels.kernel import kernels

    yield "kernels"
    for kernel in kernels().values():
        yield f"  {kernel.name:12} {kernel.summary}"
        for kind, variants in (("", kernel.variants()), ("peer ", kernel.peers())):
            for variant in variants:
                refusals = [variant.reject(problem) for problem in kernel.examples]
                refused = bool(refusals) and all(refusals)
                state = "not here" if refused else "usable"
                told = "; ".join([str(refusals[0])] * refused + [variant.status] * status)
                yield f"    {kind + variant.name:18} {variant.device:5} {state:9} {told}".rstrip()


def _first_comment(path: object) -> str:
    with open(str(path), encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip().partition(": ")[2]


def machine_lines() -> Iterator[str]:
    """The machine, a line a fact, then the optional parts that are absent."""
    from pyhpc import comm, native
    from pyhpc.machine import probe

    for name, value in probe().model_dump().items():
        if isinstance(value, dict):
            yield name
            yield from (f"  {key}: {member or 'usable'}" for key, member in value.items())
        elif isinstance(value, tuple | list):
            yield f"{name}: {len(value)}"
            yield from ("  " + ", ".join(f"{k} {v}" for k, v in member.items() if v) for member in value)
        elif value not in (None, ""):
            yield f"{name}: {value}"
    yield "absent"
    for part, reason in (("CUDA", native.cuda_absence()), ("MPI", comm.installation_absence())):
        if reason is not None:
            yield f"  {part}: {reason}"
