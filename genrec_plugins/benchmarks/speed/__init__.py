"""Speed as ratios: each part of the framework beside what users run today, in one process and in turns."""
