"""Tests that need a GPU: ``make gpu`` runs them there. Without one, ``IGNITE_TIPS_DRY_RUN=1`` runs them on the CPU."""

import os

import pytest
import torch

__all__ = ["BACKEND", "DEVICE", "needs_gpu"]

HAS_GPU = torch.cuda.is_available()
DEVICE, BACKEND = ("cuda", "nccl") if HAS_GPU else ("cpu", "gloo")
DRY_RUN = os.environ.get("IGNITE_TIPS_DRY_RUN") == "1"
needs_gpu = pytest.mark.skipif(not (HAS_GPU or DRY_RUN), reason="needs an NVIDIA GPU")
