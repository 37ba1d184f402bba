"""Parameters by name: selected, grouped, frozen."""
