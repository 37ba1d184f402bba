"""The demo in two processes, killed many times and resumed each time.

python -m tests.e2e.soak --kills 100 --seed 0
"""
