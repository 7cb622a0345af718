"""What an update costs: token trees, one row per sample, and TRL's GRPOTrainer, on the same model and tokens.

`python -m benchmarks.train_update` (or `make bench-train`). Every measurement is a process of its own (`worker`), so
that no arm sees another's memory or warm caches; `shapes` says what is computed and how many FLOPs it takes.
"""
