"""Where the project lies."""

from pathlib import Path

PROJECT = str(Path(__file__).resolve().parents[2])
"""The project's root: outputs lie below it wherever a command is typed."""
