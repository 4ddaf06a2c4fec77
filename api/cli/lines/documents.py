"""Documents: written, checked, packed, kept in the database."""

from __future__ import annotations

from typing import Final

from api.cli.lines.line import Command, option
from api.problem import ERROR, OK

COMMANDS: Final = (
    Command(
        ("init",),
        "Write a commented starter tree of documents, with examples of settings, sources and notices.",
        "api.cli.documents:init",
        (option("directory", nargs="?", default="holdfast", metavar="DIR", help="where (default ./holdfast)"),),
        ("holdfast init", "holdfast init deploy/holdfast"),
        detail="Refuses to write into a directory that holds documents already. Files that end in .example are for\n"
        "settings, sources and notices: copy them to where the settings name them.",
    ),
    Command(
        ("validate",),
        "Check a tree of documents; every finding at once.",
        "api.cli.documents:validate",
        (option("directory", nargs="?", metavar="DIR", help="the tree (default: HOLDFAST_DOCUMENTS or ./holdfast)"),),
        ("holdfast validate", "holdfast validate deploy/ --output json"),
        ((OK, "no findings"), (ERROR, "findings, each with file, line, column, what was found and what is expected")),
    ),
    Command(
        ("schema",),
        "Print the JSON Schema of the documents, for editors.",
        "api.cli.documents:schema",
        (),
        ("holdfast schema > holdfast.schema.json",),
    ),
    Command(
        ("release", "create"),
        "Make a release document; tags are resolved to digests once, now.",
        "api.cli.documents:release_create",
        (
            option("release", metavar="NAME@VERSION", help="such as shop@2.3.1"),
            option("components", nargs="+", metavar="COMPONENT=IMAGE", help="image:tag or image@sha256:…"),
            option("--project", default="default", help="default: default"),
            option("--source", metavar="URL", help="the repository the release was built from"),
            option("--commit", metavar="SHA", help="the commit the release was built from"),
            option("--insecure", action="append", default=[], metavar="HOST:PORT", help="a registry spoken to in http"),
            option(
                "--credentials",
                action="append",
                default=[],
                metavar="HOST=SECRET",
                help="where a registry's username:password is kept, such as registry.example.com=env:REGISTRY_LOGIN",
            ),
            option("--file", metavar="FILE", help="write there, not to the terminal; never overwrites"),
        ),
        ("holdfast release create shop@2.3.1 api=registry.example.com/shop/api:v2.3.1 --file shop-2.3.1.yaml",),
    ),
    Command(
        ("artifact", "pack"),
        "Pack a directory into an OCI image layout and print its digest; same input, same digest.",
        "api.cli.documents:artifact_pack",
        (
            option("directory", metavar="DIR", help="what to pack"),
            option("layout", metavar="LAYOUT", help="an OCI layout directory; made when it is missing"),
        ),
        ("holdfast artifact pack build/ artifacts/",),
        detail="For `process` targets, whose artifacts are OCI manifests too.",
    ),
    Command(
        ("apply",),
        "Write documents into the database, for environments that it owns.",
        "api.cli.apply:apply",
        (
            option(
                "-f", "--file", action="append", required=True, metavar="FILE", help="a file or a directory; - reads"
            ),
            option("--dry-run", action="store_true", help="check everything and show what would change"),
            option("--remove", action="store_true", help="take these documents out of the database instead"),
            option("--revision", type=int, metavar="N", help="only when nothing was written since this revision"),
        ),
        (
            "holdfast apply -f staging.yaml --dry-run",
            "holdfast apply -f deploy/",
            "cat prod.yaml | holdfast apply -f -",
        ),
        (
            (OK, "written, or nothing to change"),
            (ERROR, "findings, somebody else owns it, or it was written meanwhile"),
        ),
        detail="Needs a source `database: {}` in the file that HOLDFAST_SOURCES names. All documents are written\n"
        "together or none, and checked as those of every source are. A release never changes.",
    ),
    Command(
        ("export",),
        "Write the documents of the database as YAML files.",
        "api.cli.apply:export",
        (
            option("environment", nargs="?", metavar="ENV", help="with its targets and its release; all when left out"),
            option("-o", "--to", metavar="DIR", help="where; printed when left out, never overwrites"),
        ),
        ("holdfast export staging", "holdfast export -o backup/"),
    ),
)
