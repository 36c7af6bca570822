"""A run of the real command, killed again and again, ends as the one that was never killed."""

import subprocess
import sys
from pathlib import Path


def test_thirty_kills_at_random_moments_change_nothing():
    script = Path(__file__).parents[1] / "torture.py"
    done = subprocess.run([sys.executable, str(script), "--kills", "30"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "30 kills over" in done.stdout
