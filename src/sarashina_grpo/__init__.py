"""Teach a chat model to think before it speaks, with GRPO on one GPU."""

from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
DATASETS = PROJECT_ROOT / "datasets"
ARTIFACT = PROJECT_ROOT / "artifact"
