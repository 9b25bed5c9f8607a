"""From disk to batches: tables, readers, splits. Knows nothing of models."""
