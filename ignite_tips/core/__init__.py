"""The moment between gradients and update as Ignite events, and what handlers have attached there."""
