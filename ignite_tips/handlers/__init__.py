"""Handlers that a user attaches to an Ignite trainer."""
