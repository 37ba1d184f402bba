"""The moment between gradients and update as Ignite events, and a record of what is attached to an engine."""
