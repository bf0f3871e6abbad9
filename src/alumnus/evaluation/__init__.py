"""Protocols that score frozen features, and the suite that runs them for students and teachers."""
