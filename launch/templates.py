"""Templates of cluster jobs, which are part of the package."""

from pathlib import Path

__all__ = ["TEMPLATES", "read_template"]

TEMPLATES = {
    "slurm": "slurm/train.sbatch",
    "kubernetes": "kubernetes/job.yaml",
    "pytorchjob": "kubernetes/pytorchjob.yaml",
    "trainjob": "kubernetes/trainjob.yaml",
}


def read_template(name: str) -> str:
    """Return the text of a template, without its last line feed."""
    return (Path(__file__).parent / TEMPLATES[name]).read_text().rstrip()
