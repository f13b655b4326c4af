"""SIGKILL at random moments, once during a save: the run ends as if nothing had been."""

import subprocess
import sys
from pathlib import Path

import pytest

from sarashina_grpo import PROJECT_ROOT


@pytest.mark.timeout(600)
def test_a_run_that_was_killed_three_times_ends_as_one_that_was_not(artifact: Path) -> None:
    script = PROJECT_ROOT / "benchmarks" / "kills.py"
    command = [sys.executable, str(script), "3", "0", str(artifact / "tiny")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 kills, 1 of them during a save; the same weights and rewards: True" in done.stdout
