"""A rendezvous carried out: torch's handler for it, and the address at which the others reach this node."""

import uuid

from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from .nodes import Rendezvous

__all__ = ["meet"]


def meet(rendezvous: Rendezvous) -> tuple[RendezvousHandler, str]:
    """Return torch's handler and this node's address.

    Raises:
        LaunchError: the nodes cannot meet there.
    """
    address = "127.0.0.1"
    parameters = RendezvousParameters(
        "c10d", f"{address}:0", uuid.uuid4().hex, min_nodes=1, max_nodes=1, local_addr=address, is_host=True
    )
    return get_rendezvous_handler(parameters), address
