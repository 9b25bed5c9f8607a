"""From content to item vectors: tensors and plain facts only, no file of a data set."""
