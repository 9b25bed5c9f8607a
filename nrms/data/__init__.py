"""From files to batches: readers of foreign files (sources), the demo world (newsroom), tables, splits, samplers. Knows nothing of models."""
