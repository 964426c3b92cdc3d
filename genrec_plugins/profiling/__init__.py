"""FLOPs, operators, and the hardware's own rates to hold them against."""
