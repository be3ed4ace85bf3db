"""Rendering templates: autoescape is always on, and a name that the context lacks is an error."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.http.sub_path import address
from service.text import evidence, visible_text, wording
from service.web import charts

HERE = Path(__file__).parent
"""The folder of the pages' code."""

STATIC = HERE / "static"
"""The folder of files that are sent as they are."""


def render(template: str, context: Mapping[str, Any], *, status: int = 200) -> HTMLResponse:
    """Render a page.

    Args:
        template: The template's file name.
        context: Every name that the template reads.
        status: The response's status.
    """
    return HTMLResponse(render_text(template, context), status_code=status)


def render_text(template: str, context: Mapping[str, Any]) -> str:
    """Render a template as HTML.

    Args:
        template: The template's file name.
        context: Every name that the template reads.
    """
    return _environment().get_template(template).render(context)


def asset(name: str) -> str:
    """Return the address of a static file, with its content's hash so that it may be cached for ever."""
    return address(f"/static/{name}?v={asset_hash(name)}")


@lru_cache
def asset_hash(name: str) -> str:
    """Return the hash of a static file as it was when first asked for."""
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:16]


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals.update(
        address=address, asset=asset, interval=charts.mu_interval_svg, stages=wording.STAGES, evidence=evidence
    )
    environment.filters.update(
        whole=wording.whole,
        counted=wording.counted,
        data_size=wording.data_size,
        decimal=wording.decimal,
        effect=wording.effect,
        probability=wording.probability,
        duration=wording.duration,
        remaining=wording.remaining,
        moment=wording.moment,
        exact_moment=wording.exact_moment,
        ago=lambda value: wording.ago(value, datetime.now(UTC)),
        clock=wording.clock,
        seed_words=wording.seed_words,
        verdict=wording.verdict,
        histogram_words=wording.histogram_words,
        percent=wording.percent,
        pieces=visible_text.pieces,
        excerpt=visible_text.excerpt,
    )
    return environment
