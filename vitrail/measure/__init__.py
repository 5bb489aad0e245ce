"""The costs of a model: parameters and multiply-adds by count, latency by the clock."""
