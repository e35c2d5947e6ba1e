"""Which differences between trials are clear: picture by picture for models, seed by seed for settings; and trials that are the same though their settings differ.

This package loads neither torch nor Ray.
"""
