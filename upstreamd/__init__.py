"""upstreamd: the sidecar that makes plain open-source nginx a health-checked, self-updating load balancer."""

__version__ = "0.1.0"
