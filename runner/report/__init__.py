"""report.html: one self-contained page that compares the trials of an experiment, or of several.

    reading -> decision, heatmaps, table, curves, pictures, details -> page

Each of the middle modules turns records into plain values that a template prints; `writer` keeps what is
slow to make between two writings of the same page.
"""
