"""How a command ends that asks the sidecar and gets no answer, or for what there is not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from upstreamd.cli.ask import RefusedError, UnreachableError
from upstreamd.cli.command import Arguments
from upstreamd.cli.configuration import read
from upstreamd.cli.ending import Ending, end
from upstreamd.near import near


def asking(perform: Callable[[Arguments], int]) -> Callable[[Arguments], int]:
    """`perform`, ended by the sidecar's refusal or silence; where it is silent and the configuration is wrong, by all
    that is wrong, for then no sidecar can run by it."""

    @functools.wraps(perform)
    def performed(arguments: Arguments) -> int:
        try:
            return perform(arguments)
        except RefusedError as error:
            end(Ending.NO, str(error))
        except UnreachableError as error:
            read(arguments.config)
            end(Ending.UNREACHABLE, str(error))

    return performed


def require_service(service: str, known: Iterable[str]) -> None:
    """Ends the command where `service` is none of the `known` ones, which it names."""
    names = list(known)
    if service not in names:
        end(Ending.NO, f"there is no service {service}; {near(service, names)}")
