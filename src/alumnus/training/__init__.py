"""The training engine: optimiser, schedules, checkpoints, logs and one loop for all of them."""
