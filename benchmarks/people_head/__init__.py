"""People heads on frozen encoders, for docs/results/people.md."""
