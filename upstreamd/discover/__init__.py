"""Discover: where the instances are."""

from upstreamd.discover.admit import admitted
from upstreamd.discover.follow import follow
from upstreamd.discover.releasing import Releasing, release
from upstreamd.discover.source import Binding, Discoverer
from upstreamd.discover.table import build

__all__ = ["Binding", "Discoverer", "Releasing", "admitted", "build", "follow", "release"]
