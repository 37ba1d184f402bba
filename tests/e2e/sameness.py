"""States as read from a file, and where two of them differ, bit for bit."""

import io
from typing import Any

import torch

__all__ = ["differences", "saved"]


def differences(expected: Any, got: Any, path: str = "") -> list[str]:
    """Return one line per difference; NaN equals NaN."""
    if type(expected) is not type(got):
        return [f"{path}: expected {type(expected).__name__}, got {type(got).__name__}"]
    if isinstance(expected, torch.Tensor):
        same = expected.dtype == got.dtype and torch.equal(expected.nan_to_num(), got.nan_to_num())
        return [] if same and torch.equal(expected.isnan(), got.isnan()) else [f"{path}: the tensors differ"]
    if isinstance(expected, dict):
        if list(expected) != list(got):
            return [f"{path}: expected the keys {list(expected)}, got {list(got)}"]
        return [line for key in expected for line in differences(expected[key], got[key], f"{path}.{key}")]
    if isinstance(expected, list | tuple):
        if len(expected) != len(got):
            return [f"{path}: expected {len(expected)} values, got {len(got)}"]
        pairs = enumerate(zip(expected, got, strict=True))
        return [line for index, (one, other) in pairs for line in differences(one, other, f"{path}[{index}]")]
    same = expected == got or (expected != expected and got != got)
    return [] if same else [f"{path}: expected {expected!r}, got {got!r}"]


def saved(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the states of these objects as a new process would load them."""
    buffer = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in parts.items()}, buffer)
    buffer.seek(0)
    states: dict[str, Any] = torch.load(buffer, weights_only=True)
    return states
