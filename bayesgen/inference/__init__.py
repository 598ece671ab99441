"""The algorithms: the log posterior, preconditioning, schedules, and one file per sampler."""
