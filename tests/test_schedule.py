"""`pyhpc schedule`."""

from __future__ import annotations

import pytest

from pyhpc.cli import main


@pytest.fixture
def run(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["schedule", *map(str, arguments)])
        return caught.value.code, capsys.readouterr()

    return run


def test_a_schedule_is_written_out_and_proved(run):
    status, out = run("ring", "-p", 3, "--prove")
    assert status == 0
    lines = out.out.splitlines()
    assert lines[1] == "rank 0 round 0: send input[0:1] to 1; result[2:3] = from 2 op input[2:3]"
    assert len(lines) == 1 + 3 * 4 + 1
    assert lines[-1].startswith("4 steps, 12 messages, 4 vectors sent;")
    assert "proved: an all-reduce with equal bits on all ranks, not in rank order" in lines[-1]


def test_one_rank_of_many_is_written_out_and_all_of_many_are_not(run):
    _, out = run("halving_doubling", "-p", 1000, "--rank", 7)
    assert all(line.startswith("rank 7 ") for line in out.out.splitlines()[1:-1])
    assert "not proved" in out.out
    _, out = run("halving_doubling", "-p", 1000)
    assert len(out.out.splitlines()) == 2


def test_nodes_are_for_the_hierarchy(run):
    status, out = run("hierarchical", "-p", 12, "--ranks-per-node", 4, "--leaders", 2, "--prove")
    assert status == 0
    assert "12 ranks, 4 chunks" in out.out
    assert "6 steps, 52 messages" in out.out


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_picture_is_drawn(run, tmp_path, ending):
    file = tmp_path / f"ring.{ending}"
    status, out = run("ring", "-p", 4, "--picture", file)
    assert status == 0
    assert str(file) in out.out
    assert {"svg": b"<svg", "png": b"PNG"}[ending] in file.read_bytes()[:2000]


def test_sizes_are_priced(run, tmp_path):
    file = tmp_path / "machine.toml"
    file.write_text('[[levels]]\nname = "node"\nmembers = 8\ninside_bytes_per_second = 1e9\ninside_seconds = 1e-6\n')
    _, out = run("recursive_doubling", "-p", 2, "--price", "1K", "--price", 2000, "--topology", file)
    assert out.out.splitlines()[-2:] == ["1024 bytes: 3.048 us by the model", "2000 bytes: 5 us by the model"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("pigeon", "-p", 3), "there is no algorithm 'pigeon'; there are bine, "),
        (("ring",), "Missing option"),
        (("ring", "-p", 3, "--rank", 3), "rank 3 is not among 3"),
        (("ring", "-p", 3, "--ranks-per-node", 2), "ring knows no nodes"),
        (("hierarchical", "-p", 8, "--ranks-per-node", 2, "--leaders", 3), "3 leaders in a node of 2 ranks"),
        (("ring", "-p", 1000, "--picture", "x.png"), "too many for a picture"),
        (("ring", "-p", 3, "--picture", "x.pigeon"), "cannot draw x.pigeon"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_status_2(run, arguments, sentence):
    status, out = run(*arguments)
    assert status == 2
    assert sentence in out.err
