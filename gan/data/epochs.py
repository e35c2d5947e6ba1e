"""How long an epoch is."""


def steps_per_epoch(num_patches: int, batch_size: int) -> int:
    """Steps in an epoch, whatever the number of workers: the last, smaller batch counts."""
    return -(-num_patches // batch_size)
