"""Learning-rate schedules: step them, build them, preview them, save them."""
