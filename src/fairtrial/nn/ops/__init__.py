"""Token mixers as plain functions of tensors, each with a slow oracle and fast back ends."""
