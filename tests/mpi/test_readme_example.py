from __future__ import annotations

import re
from pathlib import Path

import numpy as np

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_s_example_across_ranks_runs_and_gives_what_it_says(world):
    (block,) = re.findall(r"```py\n(.*?)```", README.read_text(), re.DOTALL)
    gradients = np.full((2, 5), 0.1 * (world.rank + 1))
    names = {"gradient": gradients[0], "gradients": gradients}
    exec(compile(block, "README.md", "exec"), names)
    exact = sum(2 * 0.1 * (rank + 1) for rank in range(world.size))
    np.testing.assert_allclose(names["total"], exact, rtol=1e-15)
    assert names["x"].shape == (1024, 1024)
