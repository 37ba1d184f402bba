"""Benchmarks on a GPU, for ``make gpu``. Without one they run on the CPU or a substitute, to check that they run."""
