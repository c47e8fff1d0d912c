"""Models behind an HTTP API: retries under a budget, rate limits, prices, and faults recorded as what they are."""
