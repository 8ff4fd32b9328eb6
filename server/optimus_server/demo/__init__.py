"""The model Optimus ships: its tasks, its training, its evaluation and its weights."""

from pathlib import Path

MODELS = Path(__file__).parent / "models"
