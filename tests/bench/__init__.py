"""Benchmarks: bound images on a target by several ways, side by side in one run."""
