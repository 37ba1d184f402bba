"""The demo in two processes, killed again and again and resumed each time.

python -m tests.e2e.soak --kills 100 --seed 0
"""
