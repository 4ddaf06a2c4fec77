"""What a container is, in the terms of a specification, so that the two can be compared.

The engine fills in what nobody declared from the image; where a container has what the image says and nothing was
declared, that is no difference. Values of secrets are never compared, only that their variable is there; and a value
that was found is never shown, since nobody knows whether it is a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drivers.docker.render import Specification
from stickers import mismatch

Inspected = Mapping[str, Any]  # the engine's answer about one container, or one image

EVERYWHERE = "0.0.0.0"  # noqa: S104  # what the engine means by no address at all
AFFINITY = "affinity:container"  # what Compose 1 leaves in the environment of a container with volumes it replaced
UNSAID = {"windows": "nat"}  # the network of what declares none, by the platform of a container; else bridge
DEFAULT_GRACE = 10  # seconds the engine waits where a container does not say


def differences(
    wanted: Specification, container: Inspected, image: Inspected | None, *, named: bool = True
) -> tuple[str, ...]:
    """Sentences saying how the container is not what the specification says; empty when it is. A specification
    written by another version is compared in what both versions know. `named` False: it stands beside what serves, and
    does not answer to the placement's name yet."""
    if not named:
        wanted = {**wanted, "networks": dict.fromkeys(wanted.get("networks") or {}, "")}
    found = specification(container, image, wanted)
    known = wanted.keys() & found.keys()
    return mismatch.differences({key: wanted[key] for key in known}, {key: found[key] for key in known})


def specification(container: Inspected, image: Inspected | None, wanted: Specification) -> dict[str, Any]:
    """The container's specification. `image` None: the image is gone from the engine, and what it would have filled
    in cannot be told from what was changed, so it counts as changed."""
    config, host = container["Config"], container["HostConfig"]
    defaults = (image or {}).get("Config") or {}
    stopped = not container["State"].get("Running", False)
    return {
        "image": _image(config.get("Image", ""), container, image, wanted),
        "command": _unless(config.get("Cmd"), defaults.get("Cmd"), wanted.get("command")),
        "entrypoint": _unless(config.get("Entrypoint"), defaults.get("Entrypoint"), wanted.get("entrypoint")),
        "environment": _environment(config.get("Env"), defaults.get("Env"), wanted.get("environment") or {}),
        "ports": _ports(host.get("PortBindings")),
        "volumes": _volumes(container, defaults.get("Volumes") or {}, wanted),
        "secrets": _secrets(container, wanted.get("secrets") or {}),
        "networks": networks(container, wanted.get("networks") or {}),
        "user": _unless(config.get("User") or None, defaults.get("User") or None, wanted.get("user")),
        "restart": _restart(host.get("RestartPolicy"), wanted.get("restart"), stopped=stopped),
        "memory": host.get("Memory") or None,
        "cpus": _cpus(host),
        "stop_grace": DEFAULT_GRACE if config.get("StopTimeout") is None else config["StopTimeout"],
        "healthcheck": _healthcheck(config.get("Healthcheck"), defaults.get("Healthcheck"), wanted.get("healthcheck")),
        "privileged": bool(host.get("Privileged")),
        "working_dir": _unless(
            config.get("WorkingDir") or None, defaults.get("WorkingDir") or None, wanted.get("working_dir")
        ),
        "stop_signal": _unless(config.get("StopSignal"), defaults.get("StopSignal"), wanted.get("stop_signal")),
        "init": bool(host.get("Init")),
        "read_only": bool(host.get("ReadonlyRootfs")),
        "cap_drop": sorted(host.get("CapDrop") or ()),
        "security_opt": sorted(host.get("SecurityOpt") or ()),
    }


def networks(container: Inspected, wanted: Mapping[str, str]) -> dict[str, str]:
    """The container's networks, each with the name it answers to there: the wanted one, or the empty text."""
    unsaid = UNSAID.get(str(container.get("Platform") or ""), "bridge")
    found = {}
    for network, endpoint in (container["NetworkSettings"].get("Networks") or {}).items():
        if not wanted and network in (unsaid, "default"):
            continue
        name = wanted.get(network, "")
        found[network] = name if name in (endpoint.get("Aliases") or ()) else ""
    return found


def same_repository(one: str, other: str) -> bool:
    """Whether two repositories are one, for an engine that shortens the names of its default registry."""
    return _familiar(one) == _familiar(other)


def _familiar(repository: str) -> str:
    return repository.removeprefix("docker.io/").removeprefix("library/")


def is_known_by(image: Inspected, reference: str) -> bool:
    """Whether the engine knows the image by exactly this ``repository@digest``."""
    repository, _, wanted = reference.partition("@")
    known = (text.partition("@") for text in image.get("RepoDigests") or ())
    return any(digest == wanted and same_repository(name, repository) for name, _, digest in known)


def _image(used: str, container: Inspected, image: Inspected | None, wanted: Specification) -> str:
    reference = str(wanted.get("image", ""))
    if image is not None and container.get("Image") == image.get("Id") and is_known_by(image, reference):
        return reference
    return used


def _unless(found: Any, default: Any, wanted: Any) -> Any:
    """What was found; nothing where nothing was declared and the image says the same."""
    return None if wanted is None and found == default else found


def _environment(
    found: list[str] | None, defaults: list[str] | None, wanted: Mapping[str, Any]
) -> dict[str, str | Mapping[str, Any]]:
    from_image = set(defaults or ())
    seen: dict[str, str | Mapping[str, Any]] = {}
    for line in found or ():
        name, _, value = line.partition("=")
        if name in wanted:
            seen[name] = wanted[name] if wanted[name] == value or not isinstance(wanted[name], str) else "another value"
        elif line not in from_image and name != AFFINITY:
            seen[name] = "a value that was not declared"
    return seen


def _ports(bindings: Mapping[str, Any] | None) -> dict[str, list[str]]:
    return {
        port: sorted(f"{binding.get('HostIp') or EVERYWHERE}:{_host_port(binding)}" for binding in bound)
        for port, bound in (bindings or {}).items()
        if bound
    }


def _host_port(binding: Mapping[str, Any]) -> str:
    port = binding.get("HostPort") or ""
    return "" if port == "0" else port


def _volumes(
    container: Inspected, declared_by_image: Mapping[str, Any], whole: Specification
) -> dict[str, dict[str, Any]]:
    wanted, secrets = whole.get("volumes") or {}, whole.get("secrets") or {}
    scratch = container["HostConfig"].get("Tmpfs") or {}
    seen = {path: {"kind": "tmpfs", "source": "", "read_only": False} for path in scratch}
    for mount in container.get("Mounts") or ():
        destination, kind = mount["Destination"], mount.get("Type", "")
        if destination not in wanted and kind == "volume" and destination in declared_by_image:
            continue
        if destination in secrets:
            continue
        source = mount.get("Name") if kind == "volume" else mount.get("Source")
        seen[destination] = {"kind": kind, "source": source or "", "read_only": not mount.get("RW", True)}
    return seen


def _secrets(container: Inspected, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Where there is a file for it; what it says is never looked at."""
    files = {mount["Destination"] for mount in container.get("Mounts") or () if mount.get("Type") == "bind"}
    return {path: reference for path, reference in wanted.items() if path in files}


def _restart(policy: Mapping[str, Any] | None, wanted: str | None, *, stopped: bool) -> str:
    """A stopped container may have lost its policy to us, so that a restart of the engine does not bring it back."""
    name = (policy or {}).get("Name") or "no"
    if name == "no":
        return wanted if stopped and wanted else "never"
    tries = (policy or {}).get("MaximumRetryCount") or 0
    return f"{name}:{tries}" if tries else str(name)


def _cpus(host: Mapping[str, Any]) -> int | None:
    if nano := host.get("NanoCpus"):
        return int(nano) // 1_000_000
    if quota := host.get("CpuQuota"):
        return int(quota) * 1000 // (host.get("CpuPeriod") or 100_000) if quota > 0 else None
    return None


def _healthcheck(
    found: Mapping[str, Any] | None, default: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    if not found or (wanted is None and found == default):
        return None
    argv = list(found.get("Test") or ())
    return {
        "argv": argv[1:] if argv[:1] == ["CMD"] else argv,
        "interval": (found.get("Interval") or 0) // 1_000_000,
        "timeout": (found.get("Timeout") or 0) // 1_000_000,
        "retries": found.get("Retries") or 0,
        "start_period": (found.get("StartPeriod") or 0) // 1_000_000,
    }
