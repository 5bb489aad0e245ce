"""What a model costs: parameters and multiply-adds by count, latency by the clock."""
