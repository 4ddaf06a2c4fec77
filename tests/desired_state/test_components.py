"""How an environment's and a target's word on a component become one configuration."""

from __future__ import annotations

from datetime import timedelta

import pytest

from desired_state.health import CheckTls, CommandCheck, Health, HttpCheck, TcpCheck
from desired_state.hooks import Hook, Hooks, OnFailure, Where
from desired_state.model import Configuration, Placement, Port, Proxy, RestartPolicy, RuntimeHealthcheck, Volume
from desired_state.secrets import SecretRef
from tests.desired_state.trees import ENVIRONMENT, RELEASE, TARGET, codes, found, state


def api(base: str, own: str | None = None) -> Placement:
    """The placement of `api` on the one target, with what the environment and what the target says of it."""
    target = TARGET + (f"components: {{api: {{{own}}}}}\n" if own is not None else "")
    placements = state(RELEASE, ENVIRONMENT + f"components: {{api: {{{base}}}}}\n", target).placements
    return next(placement for placement in placements if placement.id.component == "api")


def flaws(base: str, own: str | None = None) -> list[str]:
    target = TARGET + (f"components: {{api: {{{own}}}}}\n" if own is not None else "")
    return found(RELEASE, ENVIRONMENT + f"components: {{api: {{{base}}}}}\n", target)


def test_a_component_of_which_nothing_is_said_has_the_defaults() -> None:
    placement = api("")
    assert (placement.configuration, placement.health, placement.running) == (Configuration(), None, True)


def test_everything_that_is_said_arrives() -> None:
    placement = api(
        'command: [serve, "-v"], environment: {B: x, A: {secret: "env:A", version: "2"}}, '
        'ports: ["0.0.0.0:81:80/udp", "80"], volumes: ["data:/d", "/srv:/a:ro"], networks: [z, a], user: "1:1", '
        "restart: never, memory: 256Mi, cpus: 0.5, stop_grace: 3s, registry_credentials: {secret: 'file:/c#d'}, "
        "healthcheck: {command: [check], retries: 5}, state: stopped, health: {tcp: {port: 80}, minimum: 2s}"
    )
    assert placement.configuration == Configuration(
        command=("serve", "-v"),
        environment=(("A", SecretRef(reference="env:A", version="2")), ("B", "x")),
        ports=(Port(container=80), Port(container=80, host=81, address="0.0.0.0", protocol="udp")),
        volumes=(Volume(source="/srv", destination="/a", read_only=True), Volume(source="data", destination="/d")),
        networks=("a", "z"),
        user="1:1",
        restart=RestartPolicy.NEVER,
        memory=256 << 20,
        cpus=500,
        stop_grace=timedelta(seconds=3),
        healthcheck=RuntimeHealthcheck(argv=("check",), retries=5),
        registry_credentials=SecretRef(reference="file:/c#d"),
    )
    assert placement.health == Health(check=TcpCheck(port=80), minimum=timedelta(seconds=2))
    assert placement.running is False


@pytest.mark.parametrize(
    ("said", "check"),
    [
        ("http: {port: 80}", HttpCheck(port=80)),
        ("http: {port: 80, path: /h, status: 204, body: ok}", HttpCheck(port=80, path="/h", status=204, body="ok")),
        ("tcp: {port: 80}", TcpCheck(port=80)),
        ("command: [check, --quick]", CommandCheck(argv=("check", "--quick"))),
    ],
)
def test_each_kind_of_check_is_read(said: str, check: object) -> None:
    health = api(f"health: {{{said}}}").health
    assert health is not None
    assert health.check == check


def test_hooks_arrive_and_are_no_part_of_the_configuration() -> None:
    placement = api(
        "hooks: {pre_deploy: {command: [migrate], environment: {B: x, A: {secret: 'env:A'}}}, "
        "post_deploy: {command: [announce], deadline: 5s, on_failure: warn}}"
    )
    assert placement.hooks == Hooks(
        pre_deploy=Hook(argv=("migrate",), environment=(("A", SecretRef(reference="env:A")), ("B", "x"))),
        post_deploy=Hook(argv=("announce",), deadline=timedelta(seconds=5), on_failure=OnFailure.WARN),
    )
    assert placement.content == api("").content
    assert placement.trial != api("").trial


def test_a_target_may_run_its_own_program_in_a_hook() -> None:
    placement = api("hooks: {pre_deploy: {command: [migrate], deadline: 5s}}", "hooks: {pre_deploy: {command: [skip]}}")
    assert placement.hooks == Hooks(pre_deploy=Hook(argv=("skip",), deadline=timedelta(seconds=5)))


def test_a_hook_without_a_program_is_a_flaw() -> None:
    [finding] = flaws("hooks: {post_deploy: {deadline: 5s}}")
    assert "hooks.post_deploy" in finding
    assert "the key command" in finding


def test_maps_are_merged_key_by_key() -> None:
    placement = api("environment: {A: base, B: base}", "environment: {B: own, C: own}")
    assert placement.configuration.environment == (("A", "base"), ("B", "own"), ("C", "own"))


def test_maps_inside_maps_are_merged_too() -> None:
    health = api("health: {http: {port: 80, path: /h}, interval: 2s}", "health: {http: {port: 81}}").health
    assert health == Health(check=HttpCheck(port=81, path="/h"), interval=timedelta(seconds=2))


def test_lists_are_replaced() -> None:
    assert api("ports: ['80', '81']", "ports: ['82']").configuration.ports == (Port(container=82),)
    assert api("command: [a, b]", "command: [c]").configuration.command == ("c",)


def test_what_the_target_does_not_say_is_the_environments() -> None:
    configuration = api("user: shop, memory: 1G", "memory: 2G").configuration
    assert (configuration.user, configuration.memory) == ("shop", 2 * 10**9)


def test_a_secret_is_replaced_as_a_whole() -> None:
    placement = api("environment: {A: {secret: 'env:X', version: '2'}}", "environment: {A: {secret: 'env:Y'}}")
    assert placement.configuration.environment == (("A", SecretRef(reference="env:Y")),)


def test_another_kind_of_check_takes_the_place_of_the_inherited_one() -> None:
    health = api("health: {http: {port: 80}, interval: 2s}", "health: {tcp: {port: 81}}").health
    assert health == Health(check=TcpCheck(port=81), interval=timedelta(seconds=2))


def test_null_takes_away_what_is_inherited() -> None:
    base = "environment: {A: a, B: b}, health: {tcp: {port: 80}}, memory: 1G, ports: ['80']"
    placement = api(base, "environment: {A: null}, health: null, memory: null, ports: null")
    assert placement.configuration == Configuration(environment=(("B", "b"),))
    assert placement.health is None


def test_a_target_may_complete_what_the_environment_began() -> None:
    health = api("health: {http: {path: /h}}", "health: {http: {port: 80}}").health
    assert health == Health(check=HttpCheck(port=80, path="/h"))


def test_a_check_over_tls_is_declared_and_completed_by_a_target() -> None:
    assert api("health: {http: {port: 80, tls: {}}}").health == Health(check=HttpCheck(port=80, tls=CheckTls()))
    own = "health: {http: {tls: {server_name: shop.example.com}}}"
    health = api("health: {http: {port: 80, tls: {ca: /etc/ca.pem}}}", own).health
    tls = CheckTls(ca="/etc/ca.pem", server_name="shop.example.com")
    assert health == Health(check=HttpCheck(port=80, tls=tls))
    assert str(health.check) == "https GET :80/ answers 200"
    assert api("health: {http: {port: 80, tls: {}}}", "health: {http: {tls: null}}").health == Health(
        check=HttpCheck(port=80)
    )


def test_a_target_may_stop_a_component() -> None:
    assert api("state: running", "state: stopped").running is False


def test_the_order_in_which_things_are_written_is_no_difference() -> None:
    one = api("ports: ['80', '0.0.0.0:81:81'], networks: [a, b], environment: {A: a, B: b}")
    two = api("environment: {B: b, A: a}, networks: [b, a], ports: ['0.0.0.0:81:81', '80']")
    assert one.configuration_digest == two.configuration_digest


def test_how_a_value_is_spelled_is_no_difference() -> None:
    one = api("memory: 1024Mi, cpus: 0.5, stop_grace: 60s, ports: ['8081:80']")
    two = api("memory: 1Gi, cpus: '0.500', stop_grace: 1m, ports: ['127.0.0.1:8081:80/tcp']")
    assert one.configuration_digest == two.configuration_digest


@pytest.mark.parametrize(
    ("base", "own", "line"),
    [
        (
            "health: {interval: 1s}",
            None,
            "f.yaml:13:28: components.api.health: found no check; expected exactly one of http, tcp and command",
        ),
        (
            "health: {tcp: {port: 1}, http: {port: 1}}",
            None,
            "f.yaml:13:28: components.api.health: found 2 checks (http, tcp); "
            "expected exactly one of http, tcp and command",
        ),
        (
            "health: {http: {path: /h}}",
            None,
            "f.yaml:13:35: components.api.health.http.port: found nothing; "
            "expected the key port: the port that is asked",
        ),
        (
            "user: a",
            "health: {tcp: {}}",
            "f.yaml:20:34: components.api.health.tcp.port: found nothing; "
            "expected the key port: the port that is asked",
        ),
        (
            "health: {tcp: {port: 1}, interval: 10s, successes: 5, deadline: 30s}",
            None,
            "f.yaml:13:84: components.api.health.deadline: found a deadline of 30s; expected 40s or more: it cannot be "
            "healthy sooner",
        ),
        (
            "health: {tcp: {port: 1}, deadline: 30s}",
            "health: {minimum: 31s}",
            "f.yaml:13:55: components.api.health.deadline: found a deadline of 30s; expected 31s or more: it cannot be "
            "healthy sooner",
        ),
        (
            "healthcheck: {retries: 2}",
            None,
            "f.yaml:13:33: components.api.healthcheck.command: found nothing; expected the key command: the argv "
            "that is run inside the container",
        ),
        (
            "environment: {A: }",
            None,
            'f.yaml:13:37: components.api.environment.A: found null; expected a text ("" for an empty one) or '
            "{secret: …}; null takes away an inherited variable, and none is",
        ),
        (
            "environment: {A: a}",
            "environment: {B: null}",
            'f.yaml:20:37: components.api.environment.B: found null; expected a text ("" for an empty one) or '
            "{secret: …}; null takes away an inherited variable, and none is",
        ),
        (
            "volumes: ['a:/x', 'b:/x']",
            None,
            "f.yaml:13:38: components.api.volumes[1]: found /x a second time; expected it once",
        ),
        (
            "ports: ['80', '80']",
            None,
            "f.yaml:13:34: components.api.ports[1]: found 80/tcp a second time; expected it once",
        ),
        (
            "networks: [a, b, a]",
            None,
            "f.yaml:13:37: components.api.networks[2]: found a a second time; expected it once",
        ),
    ],
)
def test_a_flaw_of_the_whole_is_found_in_the_document_that_says_most_of_it(
    base: str, own: str | None, line: str
) -> None:
    assert flaws(base, own) == [line]


def test_a_flaw_of_the_environment_is_found_once_however_many_targets_inherit_it() -> None:
    targets = [TARGET.replace("t1", f"t{number}") + "components: {api: {user: a}}\n" for number in range(5)]
    environment = ENVIRONMENT + "components: {api: {health: {http: {path: /h}}}}\n"
    assert codes(RELEASE, environment, *targets) == ["KEY_MISSING"]


def test_targets_that_say_nothing_of_their_own_share_one_configuration() -> None:
    one, two = (
        placement
        for placement in state(RELEASE, ENVIRONMENT, TARGET, TARGET.replace("t1", "t2")).placements
        if placement.id.component == "api"
    )
    assert one.configuration is two.configuration


def test_a_hook_may_be_said_to_run_on_the_target() -> None:
    placement = api("hooks: {pre_deploy: {command: [migrate], where: target}}", "")
    assert placement.hooks == Hooks(pre_deploy=Hook(argv=("migrate",), where=Where.TARGET))


# -- a proxy ----------------------------------------------------------------------------------------------------------


def test_a_proxy_asks_the_only_published_port_unless_another_is_named() -> None:
    ports = 'ports: ["8081:8080", "9090", "53:53/udp"]'
    assert api(f"{ports}, proxy: {{server_name: shop.example.com}}").proxy == Proxy(
        server_name="shop.example.com", port=8080
    )
    many = 'ports: ["8081:8080", "9091:9090"]'
    own = "proxy: {port: 9090, listen: 8000}"
    assert api(f"{many}, proxy: {{server_name: a.b, port: 8080}}", own).proxy == Proxy(
        server_name="a.b", port=9090, listen=8000
    )


@pytest.mark.parametrize(
    ("said", "place", "wrong"),
    [
        ('ports: ["8081:8080"], proxy: {listen: 80}', "proxy", "the key server_name"),
        ('ports: ["8080"], proxy: {server_name: a}', "proxy", "0 ports that fit"),
        ('ports: ["1:1", "2:2"], proxy: {server_name: a}', "proxy", "2 ports that fit"),
        ('ports: ["1:1"], proxy: {server_name: a, port: 2}', "proxy.port", "the port 2, 0 times"),
        ('ports: ["1:1"], proxy: {server_name: "a;b"}', "proxy.server_name", "the name of a host"),
        (
            'ports: ["1:1"], proxy: {server_name: a}, health: {http: {port: 1, tls: {}}}',
            "health.http.tls",
            "the key ca",
        ),
    ],
)
def test_a_proxy_that_cannot_be_is_told_with_its_place(said: str, place: str, wrong: str) -> None:
    [line] = flaws(said)
    assert f"components.api.{place}" in line
    assert wrong in line


def test_a_proxy_is_no_part_of_the_configuration() -> None:
    ports = 'ports: ["8081:8080"]'
    with_one, without = api(f"{ports}, proxy: {{server_name: a.b}}"), api(ports)
    assert with_one.content == without.content
    assert with_one.trial == without.trial
