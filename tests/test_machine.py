"""The probe: what this machine is, and how other machines' files are read."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from pyhpc import machine
from pyhpc.machine import Machine, environment, nics, probe, processor_name, usable_cores
from pyhpc.native import cuda_absence


def test_probe_describes_this_machine_and_survives_json():
    found = probe()
    assert Machine.model_validate_json(found.model_dump_json()) == found
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.architecture == platform.machine()
    assert found.processor
    assert found.sockets >= 1
    assert found.threads_per_core >= 1
    assert found.memory_bytes > 1 << 20
    assert found.targets["generic"] == ""
    assert found.libraries["numpy"]
    assert found.libraries["compiler"]
    assert found.system.startswith("Linux")


def test_a_machine_has_gpus_or_the_reason_why_not():
    found = probe()
    assert bool(found.gpus) != bool(found.gpu_absence)
    assert (cuda_absence() or "") == found.gpu_absence


def test_environment_keeps_what_matters_and_never_a_secret(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    monkeypatch.setenv("SLURM_JWT", "do not tell")
    monkeypatch.setenv("HOME_OMP_", "no")
    found = environment()
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["NCCL_ALGO"] == "Ring"
    assert "SLURM_JWT" not in found
    assert "HOME_OMP_" not in found


def test_usable_cores_respect_the_affinity_mask(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert usable_cores() == 1


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("250000 100000", 2), ("20000 100000", 1), ("", 8)])
def test_usable_cores_respect_the_cgroup_quota(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(machine, "_text", lambda path: quota)
    assert usable_cores() == cores


def test_the_targets_are_those_of_the_build():
    text = (Path(__file__).parents[1] / "csrc" / "targets.cmake").read_text()
    assert f"set(PYHPC_TARGETS_{platform.machine()} {' '.join(machine.probe().targets)})" in text


def write(root, values):
    for name, text in values.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def test_rdma_ports_and_interfaces_are_told_with_speed_state_and_address(tmp_path):
    card = "sys/class/infiniband/mlx5_0"
    write(
        tmp_path,
        {
            f"{card}/node_guid": "0002:c903:0001:0002",
            f"{card}/fw_ver": "28.39.1002",
            f"{card}/ports/1/rate": "400 Gb/sec (4X NDR)",
            f"{card}/ports/1/state": "4: ACTIVE",
            f"{card}/ports/1/link_layer": "InfiniBand",
            "sys/class/net/eth0/address": "02:00:00:00:00:01",
            "sys/class/net/eth0/speed": "100000",
            "sys/class/net/eth0/type": "1",
            "sys/class/net/eth0/operstate": "up",
            "sys/class/net/eth1/address": "02:00:00:00:00:02",
            "sys/class/net/eth1/speed": "-1",
            "sys/class/net/eth1/type": "1",
            "sys/class/net/lo/address": "00:00:00:00:00:00",
        },
    )
    port, fast, slow = nics(tmp_path)
    assert (port.name, port.kind, port.bits_per_second, port.state) == ("mlx5_0:1", "infiniband", 400e9, "active")
    assert (port.address, port.firmware) == ("0002:c903:0001:0002", "28.39.1002")
    assert (fast.name, fast.kind, fast.bits_per_second, fast.state) == ("eth0", "ethernet", 100e9, "up")
    assert (slow.name, slow.bits_per_second) == ("eth1", None)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name\t: Some   CPU @ 2.80GHz\nmodel name : other", "Some CPU @ 2.80GHz"),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd4f", "Arm implementer 0x41 part 0xd4f"),
    ],
)
def test_the_processor_is_named_as_it_names_itself(tmp_path, text, name):
    write(tmp_path, {"proc/cpuinfo": text})
    assert processor_name(tmp_path) == name


def test_nominal_clock_comes_from_the_name_only_where_the_name_states_it():
    assert machine._nominal_hertz("Some CPU @ 2.80GHz") == pytest.approx(2.8e9)
    assert machine._nominal_hertz("AMD EPYC") is None or machine._nominal_hertz("AMD EPYC") > 1e9
