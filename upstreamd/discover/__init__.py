"""Discover: where the instances are."""
