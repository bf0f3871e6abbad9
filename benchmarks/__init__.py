"""Scripts behind docs/results and the numbers in docs/: speed, and what was learned."""
