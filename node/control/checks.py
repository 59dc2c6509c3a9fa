"""What `voxelnode config check` finds beyond the values themselves: files, ports, open listeners, peers that overlap.

Each check is what `serve` does with the same keys, so that what passes here starts. It imports what it needs
itself: most configurations need little of it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from itertools import combinations
from socket import AF_INET, AF_INET6, SOCK_DGRAM, gethostname, socket
from urllib.parse import urlsplit

from node.errors import UsageError, VoxelnodeError, counted
from node.registry import audit_copy_of, enabled, has_sign_ins, sign_ins_of
from node.runtime.network import is_loopback
from node.settings.core import Route
from node.settings.model import Settings
from node.settings.peers import Peer

_EVERY_ADDRESS = ("0.0.0.0", "::")


def require_closed(settings: Settings) -> None:
    """Refuse a DICOM listener that everybody may use, unless the configuration says so.

    Raises UsageError.
    """
    host = settings.bind_host
    if settings.peers or settings.dicom.open or is_loopback(host):
        return
    raise UsageError(
        f"[dicom] host = {host} is reachable from other machines, and without [peers] anyone there may store: list the "
        "senders under [peers], or set [dicom] open = true"
    )


def require_no_loops(settings: Settings) -> None:
    """Refuse a route to this node itself: what it sends would be received, and be sent again.

    Raises UsageError.
    """
    if found := list(loops(settings)):
        raise UsageError("\n".join(found))


def loops(settings: Settings) -> Iterator[str]:
    """Yield the routes that send to this node itself."""
    dicom, web = settings.dicom, settings.web
    for name, route in settings.routes.items():
        for to in route.to:
            if (peer := settings.peers.get(to)) is not None:
                if peer.ae_title == dicom.ae_title:
                    yield (
                        f"[routes.{name}] to: [peers.{to}] has our own AE title {dicom.ae_title}, by which loops are "
                        "found: give one of the nodes another"
                    )
                elif peer.port in (dicom.port, dicom.tls_port) and _is_this_machine(
                    peer.host or "", settings.bind_host
                ):
                    yield f"[routes.{name}] to: [peers.{to}] is our own listener: remove it from the route"
            elif (address := settings.destinations[to].address) and web.enabled:
                parts = urlsplit(address)
                port = parts.port or (443 if parts.scheme == "https" else 80)
                if port == web.port and _is_this_machine(parts.hostname or "", web.host):
                    yield f"[routes.{name}] to: [destinations.{to}] is this node: remove it from the route"


def _is_this_machine(host: str, bound: str) -> bool:
    """Return whether a host is this machine, as far as it shows without a name server."""
    if is_loopback(host) or host in (bound, gethostname()):
        return True
    try:
        family = AF_INET6 if ip_address(host).version == 6 else AF_INET
    except ValueError:
        return False
    with socket(family, SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))  # only an address of this machine can be bound
        except OSError:
            return False
    return True


def require_account(settings: Settings, has_any: Callable[[], bool]) -> None:
    """Refuse pages and REST whose requests need an account, while none exists. Raises UsageError."""
    web = settings.web
    if web.enabled and web.needs_account and not has_sign_ins(settings) and not has_any():
        raise UsageError(
            f"[web] host = {web.host}, authentication = {web.authentication}: requests need an account, but none "
            "exists. Create one with `voxelnode account add NAME --role admin`, or set [web] enabled = false"
        )


def senders(settings: Settings) -> str:
    """Return whom `Admission` rejects because of [peers], and where; empty without peers, or without a listener."""
    if not (settings.peers and settings.dicom.enabled and "receive" in settings.cluster.roles):
        return ""
    listed, may = len(settings.peers), sum("store" in peer.may for peer in settings.peers.values())
    storing = f"{may or 'none'} of them may store" if listed > 1 else f"it may{'' if may else ' not'} store"
    where = "every address" if settings.bind_host in _EVERY_ADDRESS else settings.bind_host
    rejected = f"all other senders are rejected; the node listens on {where}"
    return f"[peers] lists {counted(listed, 'peer')}, and {storing}: {rejected}"


def problems(settings: Settings) -> list[str]:
    """Return why `serve` would refuse these settings; empty if it would not."""
    return [line for check in _checks(settings) for problem in problem_of(check) for line in problem.splitlines()]


def warnings(settings: Settings) -> list[str]:
    """Return what `serve` accepts, and is probably not meant."""
    found = []
    for (one, first), (other, second) in combinations(settings.peers.items(), 2):
        if first.ae_title == second.ae_title and first.host is not None and second.host is not None:
            found.append(
                f"[peers.{one}] and [peers.{other}] have one AE title and two addresses: C-MOVE and commitment reports "
                f"go to the last, [peers.{other}]; remove host from one"
            )
    for name, route in settings.routes.items():
        for to in route.to:
            found += _warnings_of_route(name, to, route, settings)
    for extension in enabled(settings):
        found += extension.warnings(settings)
    return found


def warn(settings: Settings) -> list[str]:
    """Log the warnings about what comes into force, and return them."""
    import structlog  # here, because a command that only checks the configuration logs nothing

    found = warnings(settings)
    for warning in found:
        structlog.get_logger().warning("configuration_doubtful", detail=warning)
    return found


def _warnings_of_route(name: str, to: str, route: Route, settings: Settings) -> Iterator[str]:
    peer, destination = settings.peers.get(to), settings.destinations.get(to)
    if route.confirm and peer is not None and "commit" not in peer.may:
        yield (
            f'[routes.{name}] confirm: [peers.{to}] has no "commit" in its `may`, and so may report only on the '
            "association that asks; add it"
        )
    folder = destination.folder_of if destination is not None else None
    if folder is not None and not folder.is_dir():
        yield f"[destinations.{to}] {str(folder)!r} is not there: until it is, routes wait"


def before_root(settings: Settings) -> Iterator[Callable[[], object]]:
    """Yield what a start tries before it opens the root, so that mistakes are reported first."""
    yield partial(require_closed, settings)
    yield partial(require_no_loops, settings)
    for name in settings.destinations:
        from node.routing.router import check_destination  # here: looking commands start without routes

        yield partial(check_destination, settings, name)
    for extension in enabled(settings):
        yield from extension.checks(settings)
    for name in settings.hooks:
        yield partial(_check_hook, name, settings)


def _checks(settings: Settings) -> Iterator[Callable[[], object]]:
    from node.association.tls import tls_context
    from node.runtime.tls import server_context

    dicom, web = settings.dicom, settings.web
    yield from before_root(settings)
    yield partial(_require_ports, settings)
    yield partial(_require_index, settings)
    yield partial(tls_context, dicom, settings.peers)
    for name, peer in settings.peers.items():
        yield partial(_check_peer, name, peer, settings)
    if web.enabled and web.tls_certificate is not None:
        yield partial(server_context, "web", web.tls_certificate, web.tls_key)
    if web.enabled and has_sign_ins(settings):
        yield partial(sign_ins_of, settings)
    yield partial(require_account, settings, partial(_has_account, settings))
    yield partial(_check_syslog, settings)
    yield partial(_require_log_folder, settings)


def problem_of(check: Callable[[], object]) -> Iterator[str]:
    """Yield why something that a start asks is refused, if it is."""
    try:
        check()
    except VoxelnodeError as error:
        yield str(error)


def _require_ports(settings: Settings) -> None:
    web = settings.web
    listening = [("[dicom] port", settings.bind_host, settings.dicom.port)] if settings.dicom.enabled else []
    if settings.dicom.enabled and settings.dicom.tls_port is not None:
        listening.append(("[dicom] tls_port", settings.bind_host, settings.dicom.tls_port))
    if web.enabled:
        listening.append(("[web] port", web.host, web.port))
    for table in (one for extension in enabled(settings) for one in extension.tables if not one.is_named):
        values = dict(getattr(settings, table.name))
        for key in (key for key, port in values.items() if key.endswith("_port") and port is not None):
            listening.append((f"[{table.name}] {key}", values[key.replace("port", "host")], values[key]))
    for (one, host, port), (other, another, same) in combinations(listening, 2):
        is_one_host = host == another or host in _EVERY_ADDRESS or another in _EVERY_ADDRESS
        if port == same != 0 and is_one_host:
            raise UsageError(f"{one} and {other} are both {port}: give one of them another number")


def _require_index(settings: Settings) -> None:
    if settings.index.url is None:
        return
    from node.index.rows.backend import backend_at, place_of

    place = place_of(settings.storage.root, settings.index.url)
    if mistakes := backend_at(place).mistakes(place):
        raise UsageError("\n".join(mistakes))


def _check_peer(name: str, peer: Peer, settings: Settings) -> None:
    from node.association.tls import peer_tls_context

    try:
        peer_tls_context(peer, settings.dicom)
    except UsageError as error:
        raise UsageError(f"[peers.{name}] {error}") from error


def _has_account(settings: Settings) -> bool:
    from node.index.looking import is_there, looking
    from node.index.rows.backend import place_of

    place = place_of(settings.storage.root, settings.index.url)
    if not is_there(place):
        return False
    with looking(place) as index:
        return bool(index.accounts.listed())


def _check_syslog(settings: Settings) -> None:
    copy = audit_copy_of(settings)
    if copy is not None:
        copy.close()


def _require_log_folder(settings: Settings) -> None:
    file = settings.log.file
    if file is not None and not file.absolute().parent.is_dir():
        raise UsageError(
            f"[log] file = {str(file)!r}: {str(file.parent)!r} is not a folder; create it, or name another"
        )


def _check_hook(name: str, settings: Settings) -> None:
    from node.notify.channel import hook_channel

    hook_channel(settings, name).close()
