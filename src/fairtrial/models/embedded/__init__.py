"""The kind `tiny`: small models that ship with the package, one for each way of working."""
