"""Parts of evaluate.py: protocols, metrics, statistics, ranking, baselines, and what is written. Hands nothing on: pages read three files of it."""
