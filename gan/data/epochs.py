"""How long an epoch is."""


def steps_per_epoch(num_patches: int, batch_size: int, num_workers: int = 1) -> int:
    """Steps in an epoch: the last, smaller batch counts if every worker gets a share of it."""
    return num_patches // batch_size + (num_patches % batch_size >= num_workers)
