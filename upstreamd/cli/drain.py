"""Take an instance out of rotation, and put it back."""

from __future__ import annotations

import argparse
import time

from upstreamd.cli.ask import Document, RefusedError, UnreachableError, ask
from upstreamd.cli.asking import asking
from upstreamd.cli.command import Arguments, Command
from upstreamd.cli.configuration import access
from upstreamd.cli.ending import Ending, end
from upstreamd.cli.orders import (
    await_answer,
    declare_patience,
    done,
    instance_path,
    looked,
    order_in_turn,
)
from upstreamd.cli.sheet import last_failure
from upstreamd.config import AdminSettings

_OUT = ("draining", "drained")


def _declare_instance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="the service")
    parser.add_argument("instance", metavar="ADDRESS:PORT", help="the instance, IPv6 in brackets")
    _declare_wait(parser)


def _declare_drain(parser: argparse.ArgumentParser) -> None:
    _declare_instance(parser)
    parser.add_argument("--force", action="store_true", help="drain it even if nobody else serves")


def _declare_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        action="store_true",
        help="return once it is so, not once it is ordered; wait for other orders first",
    )
    declare_patience(parser)


@asking
def _drain(arguments: Arguments) -> int:
    admin = access(arguments.config).admin
    service, instance = arguments.service, arguments.instance
    begun = time.monotonic()
    already = not arguments.wait and _is_drained(looked(admin, instance_path(service, instance)))
    said = _given(admin, arguments, "drain", {"force": arguments.force})
    if not arguments.wait:
        how = "is drained already" if already else "is being drained"
        return done(arguments, said, f"{instance} of {service} {how}; `--wait` tells when it is safe to stop")

    def safe(found: Document | None) -> bool:
        if any(each["state"] not in _OUT for each in _states(found)):
            end(Ending.NO, f"{instance} of {service} is drained no more: {_put_back(admin, service)}")
        return _is_drained(found) or (found is None and _is_forgotten(admin, instance))

    found = await_answer(admin, instance_path(service, instance), safe, begun + arguments.timeout - time.monotonic())
    if found is None:
        end(
            Ending.NO,
            f"{instance} of {service} is not safe to stop after {arguments.timeout:g}s:"
            f" {_holds_back(admin, arguments)}; the drain remains, end it with"
            f" `upstreamd undrain {service} {instance}`",
        )
    unasked = _unasked(admin)
    if unasked:
        end(
            Ending.NO,
            f"{instance} of {service} is drained on this machine, and may still be used by {unasked}; run the same"
            " command there before it is stopped",
        )
    took = round(time.monotonic() - begun, 3)
    what = f"{instance} of {service} is drained and safe to stop, after {took:.2f}s"
    return done(arguments, {**said, "state": "drained", "seconds": took}, what)


@asking
def _undrain(arguments: Arguments) -> int:
    admin = access(arguments.config).admin
    service, instance = arguments.service, arguments.instance
    begun = time.monotonic()
    said = _given(admin, arguments, "undrain", {})
    if not arguments.wait:
        return done(
            arguments,
            said,
            f"{instance} of {service} is put back; it serves as soon as it is healthy",
        )
    found = await_answer(admin, instance_path(service, instance), _serves, begun + arguments.timeout - time.monotonic())
    if found is None:
        why = _holds_back(admin, arguments)
        end(
            Ending.NO,
            f"{instance} of {service} does not serve after {arguments.timeout:g}s: {why}",
        )
    return done(arguments, {**said, "state": "healthy"}, f"{instance} of {service} serves again")


def _given(admin: AdminSettings, arguments: Arguments, verb: str, wanted: Document) -> Document:
    """The order's answer; with `--wait` other orders are waited for too."""
    path = f"{instance_path(arguments.service, arguments.instance)}/{verb}"
    return order_in_turn(admin, path, wanted, arguments.timeout if arguments.wait else 0.0)


def _states(found: Document | None) -> list[Document]:
    return list(found.get("instances", [])) if found else []


def _is_drained(found: Document | None) -> bool:
    return bool(_states(found)) and all(each["state"] == "drained" for each in _states(found))


def _is_forgotten(admin: AdminSettings, instance: str) -> bool:
    """Whether an instance that no source names any more is not served either, nor known to an old worker."""
    status = ask(admin, "/v1/status")
    kept = [name for service in status["services"].values() for name in service["kept"]]
    return instance not in kept and not status["nginx"]["draining"] and not status["pending"]


def _put_back(admin: AdminSettings, service: str) -> str:
    """Why an order that was taken holds no more."""
    alarms = ask(admin, "/v1/status")["services"].get(service, {}).get("alarms", [])
    return next((each for each in alarms if "given way" in each), "somebody has put it back")


def _unasked(admin: AdminSettings) -> str:
    """The machines that share orders with this one and cannot be asked now, and why; empty where none is."""
    status = ask(admin, "/v1/status")
    sharing, peers = status.get("sharing"), status.get("peers") or {}
    if not sharing or sharing["ok"] or not peers:
        return ""
    return f"{', '.join(sorted(peers))}, which cannot be asked ({sharing['error']})"


def _serves(found: Document | None) -> bool:
    return any(each["state"] == "healthy" and each["serving"] for each in _states(found))


def _holds_back(admin: AdminSettings, arguments: Arguments) -> str:
    """Why an instance is not yet as it should be, as far as the sidecar knows."""
    try:
        states = _states(looked(admin, instance_path(arguments.service, arguments.instance)))
        status = ask(admin, "/v1/status")
    except (UnreachableError, RefusedError) as error:
        return str(error)
    if not states:
        return "no source names it any more"
    state, draining, failed = states[0], int(status["nginx"]["draining"]), last_failure(status)
    if state["serving"] or failed:
        serves = f"nginx still sends it requests ({state['reason']})" if state["serving"] else f"it is {state['state']}"
        return f"{serves}; {failed}" if failed else serves
    if state["state"] == "draining" and draining:
        return f"{draining} nginx workers that may know it still finish long requests"
    return f"it is {state['state']} ({state['reason']})"


DRAIN = Command(
    "drain",
    "take an instance out of rotation, --wait until safe to stop",
    "It gets no new requests until `undrain`, also after restarts of it or of upstreamd.\n"
    "With --wait the command returns once no nginx worker that knew it is left and no\n"
    "request is under way to it, here and on every machine that shares orders with this\n"
    "one; past --timeout exit code 1, and the drain remains. The last instance that serves\n"
    "is refused without --force, and even then it serves on until another one can.",
    "upstreamd drain app_servers 10.0.0.5:3000 --wait && systemctl restart app",
    _declare_drain,
    _drain,
)
UNDRAIN = Command(
    "undrain",
    "put a drained instance back; --wait: until it serves",
    "It serves as soon as it is healthy.",
    "upstreamd undrain app_servers 10.0.0.5:3000 --wait",
    _declare_instance,
    _undrain,
)
