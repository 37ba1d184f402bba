"""Attacks on launches and on what runs leave behind; `python -m tests.e2e.attack` makes many of each."""
