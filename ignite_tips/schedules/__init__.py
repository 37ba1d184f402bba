"""Learning-rate schedules: factors, simulation, pictures, state."""
