"""Pages for people: what there is, and what problems mean. Written here from the code, without a script."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse

from trunkline.api.control import problems

router = APIRouter(include_in_schema=False)

_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 14px/1.4 ui-monospace, monospace } pre { overflow-x: auto; padding: .5rem; background: #8882 }
h3 { margin: 1.5rem 0 0 } dt { font-weight: bold } .who { color: #888 }
"""


@router.get("/docs")
def show_docs(request: Request) -> HTMLResponse:
    """Every route, by what it is about."""
    schema = request.app.openapi()
    return _page("The control plane", "".join(_operations(schema)))


@router.get(problems.PAGE)
def show_problems() -> HTMLResponse:
    """Every type of problem; the address of each is its `type`."""
    parts = ["<p>An error of <code>/v1</code> is <code>application/problem+json</code> (RFC 9457): its "]
    parts.append("<code>type</code> leads here, its <code>detail</code> says what to do.</p>")
    for slug, title, status, sentences in problems.kinds():
        parts.append(f'<h3 id="{slug}">{status} {html.escape(title)}</h3><p class="who"><code>{slug}</code></p>')
        parts += [f"<p>{html.escape(sentence)}</p>" for sentence in dict.fromkeys(sentences)]
    return _page("Problems", "".join(parts))


def _page(title: str, body: str) -> HTMLResponse:
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title} - Trunkline</title>'
    view = '<meta name="viewport" content="width=device-width">'
    return HTMLResponse(f"{head}{view}<style>{_STYLE}</style><h1>{title}</h1>{body}", headers=_HEADERS)


def _operations(schema: Mapping[str, Any]) -> Iterator[str]:
    yield (
        '<p>For programs: <a href="/openapi.json"><code>/openapi.json</code></a>. Errors: '
        f'<a href="{problems.PAGE}">problems</a>.</p>'
    )
    by_tag: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["Others"])[0]
            by_tag.setdefault(tag, []).append(_operation(method.upper(), path, operation, schema))
    for tag, operations in by_tag.items():
        yield f"<h2>{html.escape(tag)}</h2>"
        yield from operations


def _operation(method: str, path: str, operation: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    parts = [f"<h3><code>{method} {html.escape(path)}</code></h3>"]
    parts.append(f'<p class="who">{html.escape(str(operation.get("x-permission", "")))}</p>')
    parts.append(f"<p>{html.escape(operation.get('description', ''))}</p>")
    for each in operation.get("parameters", ()):
        said = html.escape(each.get("description") or each.get("schema", {}).get("description", ""))
        parts.append(f"<p><code>{html.escape(each['name'])}</code> ({each['in']}) {said}</p>")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body is not None:
        example = json.dumps(example_of(body, schema), indent=2, ensure_ascii=False)
        parts.append(f"<pre>{html.escape(example)}</pre>")
    answers = ", ".join(operation.get("responses", {}))
    parts.append(f'<p class="who">Answers: {answers}</p>')
    return "".join(parts)


def example_of(part: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0) -> Any:
    """A value of the form that a part of the description asks for, from its examples where it has some."""
    if "$ref" in part:
        return example_of(schema["components"]["schemas"][part["$ref"].rpartition("/")[2]], schema, depth)
    if part.get("examples"):
        return part["examples"][0]
    for choice in part.get("anyOf", ()):
        if choice.get("type") != "null":
            return example_of(choice, schema, depth)
    if "enum" in part:
        return part["enum"][0]
    if part.get("type") == "object" or "properties" in part:
        properties = part.get("properties", {}) if depth < _DEEPEST else {}
        return {name: example_of(each, schema, depth + 1) for name, each in properties.items()}
    if part.get("type") == "array":
        return [example_of(part.get("items", {}), schema, depth + 1)]
    return {"string": "...", "integer": 1, "number": 1.0, "boolean": True}.get(str(part.get("type")))


_DEEPEST: Final = 4
"""Levels of an example."""
