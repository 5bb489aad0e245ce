"""A run that answers over HTTP: limits, batches, metrics, a page; the ASGI stack is an extra."""
