"""Count the multiplications and additions of a model's run with torch's own counter."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_mult_adds"]


def count_mult_adds(run: Callable[[], object]) -> int:
    """Call ``run``; return the mult-adds of its matrix products, convolutions, recurrent layers and attention.

    Example:
        >>> count_mult_adds(lambda: nn.Linear(8, 4)(torch.ones(2, 5, 8))) == 2 * 5 * 8 * 4
        True
    """
    is_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its kernels run whole layers of attention, unknown to the counter
    try:
        with FlopCounterMode(display=False, custom_mapping=_UNKNOWN) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)
    return int(counter.get_total_flops()) // 2  # it counts a multiplication and its addition as two


def _attention_flop(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent_flop(inputs: Sequence[int], weights: Sequence[Sequence[int]], *_: Any, **__: Any) -> int:
    # At each place of each sequence every matrix is applied once; a bias has one dimension.
    return 2 * prod(inputs[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


def _recurrent_flop_of_mkldnn(inputs: Sequence[int], *weights: Any, **_: Any) -> int:
    return _recurrent_flop(inputs, weights[:2])


# Kernels that the counter does not know, with their FLOPs as a function of the shapes.
_UNKNOWN = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent_flop_of_mkldnn,
    torch.ops.aten._cudnn_rnn: _recurrent_flop,
    torch.ops.aten.miopen_rnn: _recurrent_flop,
}
