"""Which differences between trials are clear: picture by picture for models, seed by seed for settings.

Trials that are the same although their settings differ are named, too. This package loads neither torch nor Ray.
"""
