"""Memory does not grow with the number of samples: real builds in processes of their own. Minutes long."""

from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_flat_from_200_to_20000_samples(workers: int, tmp_path: Path) -> None:
    from benchmarks.prep import peak_memory

    small, large = (peak_memory(n, tmp_path, workers) for n in (200, 20_000))
    assert large < 1.2 * small
