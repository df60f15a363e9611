"""Observe: what people, scripts and dashboards read. Reads and never steers."""
