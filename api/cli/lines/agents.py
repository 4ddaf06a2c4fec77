"""Agents, and the authority that knows them."""

from __future__ import annotations

from typing import Final

from api.cli.lines.line import TARGET, Command, option
from api.problem import ERROR, FAILED, OK

AGENT: Final = option("name", metavar="NAME", help="an agent")
KINDS: Final = option("kinds", nargs="+", metavar="KIND", help="docker, compose, process, systemd or script")

COMMANDS: Final = (
    Command(
        ("agent", "invite"),
        "Invite a host: print a join token for it, once, and keep the name and targets for it.",
        "api.cli.agents:invite",
        (
            option("name", metavar="NAME", help="what the agent is called: small letters, digits and hyphens"),
            option(
                "--target",
                dest="targets",
                action="append",
                default=[],
                metavar="T",
                help="it serves; may be given again",
            ),
            option(
                "--kind", dest="kinds", action="append", default=[], metavar="KIND", help="runtime granted to it; again"
            ),
            option("--shared", action="store_true", help="other agents serve these targets too, one of them at a time"),
        ),
        (
            "holdfast agent invite web-1 --target web-1 --kind docker",
            "holdfast agent invite rack-2 --target edge --shared --kind compose --kind systemd",
            "holdfast agent invite web-1 --output json | jq -r .token",
        ),
        (
            (OK, "the token is printed"),
            (ERROR, "the name is locked, a target is somebody else's, or no signer is known"),
        ),
        detail="The token counts for 15 minutes and once; a second use locks the name. An agent that is there already\n"
        "keeps its targets and is somebody new once it has joined again. Kinds: docker, compose, process, systemd,\n"
        "script.",
    ),
    Command(
        ("agent", "list"),
        "List agents: state, version, capabilities, last contact, queue, targets.",
        "api.cli.agents:index",
        (option("--all", action="store_true", help="the removed ones too"),),
        ("holdfast agent list", "holdfast agent list --output json"),
        detail="online    heard within 45 s\ndegraded  a sign of life is missing\noffline   silent for more than 90 s",
    ),
    Command(
        ("agent", "show"),
        "Show one agent, with its certificates.",
        "api.cli.agents:show_one",
        (AGENT,),
        ("holdfast agent show web-1",),
        ((OK, "it may speak"), (FAILED, "it is locked, removed or has not joined"), (ERROR, "no such agent")),
    ),
    Command(
        ("agent", "lock"),
        "Speak with an agent no more, at once; nothing it holds is changed.",
        "api.cli.agents:lock",
        (AGENT, option("--reason", metavar="WHY", help="kept in the record")),
        ("holdfast agent lock web-1 --reason 'the host was stolen'",),
    ),
    Command(
        ("agent", "unlock"),
        "Speak with an agent again; one whose identity was copied has to be invited anew.",
        "api.cli.agents:unlock",
        (AGENT,),
        ("holdfast agent unlock web-1",),
    ),
    Command(
        ("agent", "remove"),
        "Forget an agent: its identity, its rights and its targets.",
        "api.cli.agents:remove",
        (AGENT,),
        ("holdfast agent remove web-1",),
        detail="What runs on the host goes on running. The name may be given to another host.",
    ),
    Command(
        ("agent", "drain"),
        "Let an agent end what it does, and give it nothing new.",
        "api.cli.agents:drain",
        (AGENT, option("--end", action="store_true", help="give it work again")),
        ("holdfast agent drain web-1", "holdfast agent drain web-1 --end"),
    ),
    Command(
        ("agent", "grant"),
        "Let an agent work with a runtime.",
        "api.cli.agents:grant",
        (AGENT, KINDS),
        ("holdfast agent grant web-1 docker systemd",),
        detail="Kinds: docker, compose, process, systemd, script.",
    ),
    Command(
        ("agent", "revoke"),
        "Let an agent work with a runtime no more.",
        "api.cli.agents:revoke",
        (AGENT, KINDS),
        ("holdfast agent revoke web-1 script",),
    ),
    Command(
        ("agent", "bind"),
        "Give an agent one more target.",
        "api.cli.agents:bind",
        (AGENT, TARGET, option("--shared", action="store_true", help="with other agents, one of them at a time")),
        ("holdfast agent bind web-1 cache-1",),
    ),
    Command(
        ("agent", "unbind"),
        "Take a target from an agent.",
        "api.cli.agents:unbind",
        (AGENT, TARGET),
        ("holdfast agent unbind web-1 cache-1",),
    ),
    Command(
        ("agent", "take"),
        "Let this one, of the agents that share a target, hold it from now on.",
        "api.cli.agents:take",
        (AGENT, TARGET),
        ("holdfast agent take rack-2 edge",),
        detail="What another began there is fenced off: it is refused from then on.",
    ),
    Command(
        ("agent", "hold"),
        "Let the agent of a target keep it as it is while it can reach no server.",
        "api.cli.agents:hold",
        (TARGET, option("--for", dest="span", required=True, metavar="SPAN", help="30m, 12h, 7d; 0 ends it")),
        ("holdfast agent hold web-1 --for 7d", "holdfast agent hold web-1 --for 0"),
        ((OK, "it is held"), (ERROR, "no agent, or it cannot be reached")),
        detail="The agent heals what was last authorised and proven, and nothing else. Without it an agent that is\n"
        "cut off changes nothing.",
    ),
    Command(
        ("agent", "run"),
        "Run a command that a target's host has given a name, through its agent.",
        "api.cli.agents:run",
        (
            TARGET,
            option("name", metavar="NAME", help="as the host's settings name it"),
            option("arguments", nargs="*", metavar="ARG", help="what the host's pattern for it lets through"),
        ),
        ("holdfast agent run web-1 reload-proxy", "holdfast agent run web-1 service -- restart nginx"),
        ((OK, "it ended with 0"), (FAILED, "it ended otherwise; shows how"), (ERROR, "nobody lets it, or no agent")),
        detail="The signer's policy and the host's own settings both have to let it. It is run once.",
    ),
    Command(
        ("agent", "upload"),
        "Put files into a directory that a target's host has given a name, through its agent.",
        "api.cli.agents:upload",
        (
            TARGET,
            option("name", metavar="NAME", help="as the host's settings name it"),
            option("files", nargs="+", metavar="FILE", help="each by its own name; PATH=FILE for another"),
        ),
        ("holdfast agent upload web-1 pages index.html", "holdfast agent upload web-1 pages img/a.png=a.png"),
        ((OK, "all of them are there"), (ERROR, "nobody lets it, or no agent; none is there")),
    ),
    Command(
        ("agent", "inspect"),
        "Have a target's agent look at it now, and ask its health checks once.",
        "api.cli.agents:inspect",
        (TARGET,),
        ("holdfast agent inspect web-1",),
        ((OK, "shown"), (FAILED, "its agent cannot see it; says why"), (ERROR, "nobody lets it, or no agent")),
        detail="Nothing is changed, and nothing is recorded. The signer's policy has to let health-check.",
    ),
    Command(
        ("agent", "upgrade"),
        "Have an agent take another version's place, and take its own again where that does not report.",
        "api.cli.agents:upgrade",
        (
            AGENT,
            option("artifact", metavar="ARTIFACT", help="repository@sha256:…, with the program holdfast-agent in it"),
            option("--version", required=True, metavar="V", help="what the new one is called"),
        ),
        ("holdfast agent upgrade web-1 registry.example.com/holdfast/agent@sha256:… --version 0.2.0",),
        ((OK, "the new one has reported"), (ERROR, "nobody lets it, no agent, or it was undone; says why")),
        detail="The signer's policy (verb upgrade, repositories) and the host's own settings (upgrade) both have to\n"
        "let it.",
    ),
    Command(
        ("agent", "trust"),
        "Have every agent believe the key that `holdfast signer rotate` has made.",
        "api.cli.agents:trust",
        (),
        ("holdfast agent trust",),
        ((OK, "all of them do"), (FAILED, "some could not be told; run it again"), (ERROR, "no rotation is under way")),
        detail="The former key vouches for the new one, and is believed for another day.",
    ),
    Command(
        ("agent", "declare-dead"),
        "Answer for it that nothing runs on a lost host any more.",
        "api.cli.agents:declare_dead",
        (AGENT,),
        ("holdfast agent declare-dead rack-1",),
        detail="The agent is locked; whoever shares a target with it takes over; what it began is refused from then\n"
        "on. Where the host is only cut off, what runs there goes on running: be sure.",
    ),
    Command(
        ("authority", "show"),
        "Show who issues the certificates of agents, until when, and how many agents depend on each.",
        "api.cli.agents:authority",
        (),
        ("holdfast authority show",),
        ((OK, "shown"), (FAILED, "the issuer ends within 60 days; rotate it"), (ERROR, "it could not be asked")),
    ),
    Command(
        ("authority", "rotate"),
        "Make a new issuer; the former one counts until it is retired.",
        "api.cli.agents:rotate",
        (),
        ("holdfast authority rotate",),
        detail="Needs the private key of the root, which may be kept elsewhere at all other times. Agents that are\n"
        "offline come back with what they have.",
    ),
    Command(
        ("authority", "retire"),
        "Believe a former issuer no more.",
        "api.cli.agents:retire",
        (
            option("id", metavar="ID", help="as `authority show` names it"),
            option("--force", action="store_true", help="even where agents have to be invited again then"),
        ),
        ("holdfast authority retire 4f1d0c22ab90",),
    ),
)
