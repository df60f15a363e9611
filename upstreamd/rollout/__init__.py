"""A rolling update, run from an operator's shell: which instances, one after the other, and what became of each."""
