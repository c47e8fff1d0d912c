"""Tasks: instruction + environment + verifier, the sandboxes that they run in, and the suites that ship."""
