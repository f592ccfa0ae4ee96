"""Law: what the site says of the wire, the code and the measurements is taken from them while it is built.

Pages that are generated: the wire (from `contract/asyncapi.json`), the code (from the rooms' docstrings), and the two
documents that live outside `docs/`.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[2]
_OUTSIDE: Final = {"benchmarks.md": "benchmarks/README.md", "contributing.md": "CONTRIBUTING.md"}
_ELSEWHERE: Final = {
    "contract/asyncapi.json": "wire.md",
    **{f"../{source}": page for page, source in _OUTSIDE.items()},
}
"""What a page links to so that the link leads somewhere in the repository too, and the page of the site that it is."""

_BASE: Final = "hw/1/{fleet}/"
_DIRECTIONS: Final = {
    "up": "From a child to its parent",
    "inbox": "From a parent to one child",
    "down": "From a parent to all of its children",
    "rounds": "For people",
    "enrol": "Before a node has a name",
    "": "Of a node",
}
REFERENCE: Final = {
    "What is sent and said": ("schemas.messages", "schemas.statuses", "schemas.topics", "schemas.limits"),
    "What is configured": ("schemas.settings", "schemas.links", "schemas.sources", "schemas.run", "schemas.learning"),
    "Errors": ("schemas.errors",),
    "Learning, pure": ("core.round", "core.aggregate", "core.staleness", "core.deadline", "core.fallback"),
    "Models": ("models", "core.graph"),
    "A round's shells": ("node.child", "node.parent", "node.hosting"),
    "Who said it": ("trust.certificates", "trust.signing", "trust.tokens", "node.trusting"),
    "The history": ("cloud.history.history", "cloud.history.records"),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {"wire.md": wire(), "reference.md": reference()}
    pages |= {name: _from_outside((ROOT / source).read_text(encoding="utf-8")) for name, source in _OUTSIDE.items()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.src_path == "wire.md":
        return markdown
    return re.sub(r"\]\(([^)#]+)\)", lambda link: f"]({_ELSEWHERE.get(link[1], link[1])})", markdown)


def wire() -> str:
    """The AsyncAPI document for people: topics by direction, then every message with its fields."""
    contract = json.loads((ROOT / "docs" / "contract" / "asyncapi.json").read_text(encoding="utf-8"))
    schemas = contract["components"]["schemas"]
    lines = ["# The wire", "", contract["info"]["description"], ""]
    lines += [
        "Generated from the contract: [asyncapi.json](contract/asyncapi.json) for tools,",
        "[messages.schema.json](contract/messages.schema.json) for validators.",
        "",
        "## Topics",
        "",
        f"All of them are below `{_BASE}`.",
        "",
    ]
    for direction, title in _DIRECTIONS.items():
        rows = [row for row in contract["channels"].values() if _direction(row["address"]) == direction]
        if rows:
            lines += [f"### {title}", "", "| topic | message | retained | |", "|---|---|---|---|"]
            lines += [_topic_row(row) for row in rows] + [""]
    lines += ["## Messages", ""]
    for name, message in contract["components"]["messages"].items():
        schema = schemas[message["payload"]["$ref"].rsplit("/", 1)[1]]
        lines += [f"### {name}", "", *_message(message["contentType"], schema), ""]
    others = {name: schema for name, schema in schemas.items() if name not in contract["components"]["messages"]}
    lines += ["## What they are made of", ""]
    for name, schema in others.items():
        lines += [f"### {name}", "", *_message("", schema), ""]
    return "\n".join(lines) + "\n"


def reference() -> str:
    """Where the code's own words are shown; mkdocstrings fills it."""
    lines = [
        "# The code",
        "",
        "The rooms' public names, by their docstrings. [For its developers](contributing.md) says which is what.",
        "",
    ]
    for title, modules in REFERENCE.items():
        lines += [f"## {title}", ""]
        for module in modules:
            lines += [
                f"### headwater.{module}",
                "",
                f"::: headwater.{module}",
                "    options:",
                "      heading_level: 4",
                "",
            ]
    return "\n".join(lines)


def _direction(address: str) -> str:
    return next((name for name in _DIRECTIONS if name and f"/{name}/" in address), "")


def _topic_row(row: dict[str, Any]) -> str:
    messages = " or ".join(f"[{message}](#{message.lower()})" for message in row["messages"])
    retained = "yes" if row["bindings"]["mqtt"]["retain"] else ""
    return f"| `{row['address'].removeprefix(_BASE)}` | {messages} | {retained} | {row['summary']} |"


def _message(content_type: str, schema: dict[str, Any]) -> list[str]:
    told = " ".join(schema.get("description", "").split())
    kind = "msgpack" if content_type.endswith("msgpack") else "JSON"
    lines = [*([f"*{kind}*", ""] if content_type else []), told, ""]
    fields = schema.get("properties", {})
    if fields:
        lines += ["| field | type | default |", "|---|---|---|"]
        lines += [f"| `{name}` | {_type(field)} | {_default(field)} |" for name, field in fields.items()]
    return lines


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"table of {_type(field['additionalProperties'])}"
    return str(
        {"string": "text", "integer": "whole number", "number": "number"}.get(
            field.get("type", ""), field.get("type", "any")
        )
    )


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return ""
    return f"`{json.dumps(field['default'], ensure_ascii=False)}`"


def _from_outside(text: str) -> str:
    """A document that links as from its own folder, with its links as from here."""
    text = re.sub(r"\]\(\.\./docs/([^)]+)\)", lambda link: f"]({_page(link[1])})", text)
    return re.sub(r"\]\(docs/([^)]+)\)", lambda link: f"]({_page(link[1])})", text)


def _page(path: str) -> str:
    return "scenarios/wearables.md" if path.rstrip("/") == "scenarios" else path
