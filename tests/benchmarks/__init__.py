"""Tests of the benchmarks' own code, on made-up figures: no test measures time."""
