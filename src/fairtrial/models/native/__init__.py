"""The native family: models of `fairtrial.nn`, decoded in this process."""
