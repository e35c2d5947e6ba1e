"""Speed, as ratios in one run; each module prints a table and writes JSON with `--json FILE`."""
