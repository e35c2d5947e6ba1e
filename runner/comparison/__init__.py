"""Which differences between trials are clear: picture by picture for models, seed by seed for settings.

This package loads neither torch nor Ray.
"""
