"""Benchmarks: every request with every method, baselines, model cards, and the comparison with the paper."""
