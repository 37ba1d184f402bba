"""Benchmarks on a GPU, for ``make gpu``. Without one they run on the CPU or a stand-in, to see that they run."""
