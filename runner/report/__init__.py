"""report.html: one self-contained page that compares the trials of an experiment, or of several.

    reading -> decision, charts, seeds, details -> page

Each of the middle modules turns the trials into plain values that a template prints. `writer` keeps what is slow to
make for the next time that the same page is written.
"""
