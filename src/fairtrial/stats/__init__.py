"""Statistics: pure functions over scores, asked by every room. Randomness is an argument; scipy loads when first used.

Modules: `scores` (what goes in, which blocks two arms share), `paired` (the paired effect), `verdict` (what may be said
of it), `arms` (one arm), `intervals`, `resampling`, `permutation`, `binary`, `equivalence`, `multiplicity`, `power`,
`passk`, `gain`, `outcomes` (one denominator, attrition, sensitivity), `metrics` (runs with native metrics) and
`planted` (studies whose truth is known).
"""
