"""Pages of an audit's findings: the list of samples, and each sample."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from service.audits.queries import find_audit, find_published, render_audit
from service.contract.results import BASELINE_COLUMNS
from service.findings.precision import audit_precision
from service.findings.queries import FoundFinding, find_finding, find_neighbours, read_page, with_text
from service.findings.saved_views.queries import views_by_name
from service.findings.schemas import FindingDetail, Observation
from service.findings.verdicts.queries import find_bulk, find_reviewers, list_changes
from service.http.dependencies import ObjectReadsDep, RowsDep, SessionDep, TransactionsDep
from service.http.fields import PathId, Row
from service.http.pagination import PageDep
from service.http.sub_path import address
from service.lifecycle.transitions import State
from service.principal import Principal
from service.text import evidence, token_shares, visible_text, wording
from service.web import charts, queries
from service.web.page_route import PageRoute
from service.web.pages.finding_list import COLUMN_LABELS, SORT_LABELS, FindingList, FindingListDep
from service.web.pages.page import (
    FindingsReader,
    answer_page,
    extent_of,
    find_summary,
    names_of,
    score_of,
    table_row,
)

router = APIRouter(route_class=PageRoute)

EXACT = {
    "rank", "n", "tokens_left_out", "mu", "mu_low", "mu_high", "mu_composed", "z", "z_reference", "z_gradient",
    "z_representation", "probability_unwanted", "probability_fair", "p", "q",
}  # fmt: skip
"""Numbers that a sample's page shows with all their digits too."""


WORDS_SHOWN = 40
"""How many of a sample's words its page lists, by the size of their shares."""

CHANGES_SHOWN = 20
"""How many of a sample's newest verdicts its page shows."""


@router.get("/audits/{audit_id}/findings")
def finding_list(
    request: Request,
    audit_id: PathId,
    principal: FindingsReader,
    session: SessionDep,
    page: PageDep,
    asked: FindingListDep,
    bulk: Annotated[str | None, Query(max_length=100)] = None,
) -> Response:
    """Show samples by rank or in another order, with what people say of them."""
    audit = render_audit(find_audit(session, principal, audit_id))
    rows, next_after, reviewed, precision, done, reviewers = [], None, None, [], None, []
    if audit.status == State.SUCCEEDED:
        published = find_published(session, principal, audit_id)
        found = read_page(session, published, asked.wanted, sort=asked.sort, after=page.after, limit=page.limit)
        listed = page.page_up_to(found.findings, found.next_key)
        rows, next_after = [table_row(finding) for finding in listed.data], listed.next_after
        *precision, reviewed = audit_precision(session, published).data
        done = find_bulk(session, published, bulk) if bulk else None
        reviewers = find_reviewers(session, published)
    views = views_by_name(session, principal)
    return answer_page(
        "findings.html",
        "audits",
        principal,
        audit=audit,
        names=names_of(session, principal, audit),
        summary=audit.summary,
        rows=rows,
        extent=extent_of(rows),
        asked=asked,
        sorts=SORT_LABELS,
        columns=COLUMN_LABELS,
        reviewed=reviewed,
        precision=[one for one in precision if one.precision is not None],
        done=done,
        reviewers=reviewers,
        views=views,
        actors=queries.actor_names(session, principal, [*reviewers, *(view.actor_id for view in views)]),
        first="after" not in request.query_params,
        next_after=next_after,
        base=address(f"/audits/{audit.id}/findings"),
        here=f"/audits/{audit.id}/findings{asked.query(after=request.query_params.get('after'))}",
    )


@router.get("/audits/{audit_id}/findings/{row}")
async def finding_page(
    audit_id: PathId,
    row: Row,
    principal: FindingsReader,
    transactions: TransactionsDep,
    reads: ObjectReadsDep,
    rows: RowsDep,
    asked: FindingListDep,
) -> Response:
    """Show one sample: its text, its numbers in words, what people say of it, and its neighbours in the list."""
    found = await transactions.run(
        lambda session: find_finding(session, find_published(session, principal, audit_id), row)
    )
    finding = found.detail if found.has_text else await reads.run(lambda: with_text(found, rows))
    return await transactions.run(lambda session: _answer(session, principal, found, finding, asked))


def _answer(
    session: Session, principal: Principal, found: FoundFinding, finding: FindingDetail, asked: FindingList
) -> Response:
    """Answer with the page of one sample."""
    published, row, audit_id = found.audit, found.row, found.audit.id
    audit, summary = (
        render_audit(find_audit(session, principal, audit_id)),
        find_summary(session, principal, audit_id),
    )
    score = score_of(finding.model_dump())
    previous, following = find_neighbours(session, published, asked.wanted, asked.sort, finding)
    changes = list_changes(session, published, row, after=None, limit=CHANGES_SHOWN)
    extra = [(key, visible_text.shown_value(value)) for key, value in (finding.extra or {}).items()]
    shown = [message["content"] for message in finding.messages or []] + [part for pair in extra for part in pair]
    base = address(f"/audits/{audit.id}/findings")
    opinions = finding.verdict.opinions if finding.verdict else []
    said_by = [*(change.actor_id for change in changes), *(opinion.actor_id for opinion in opinions)]
    return answer_page(
        "finding.html",
        "audits",
        principal,
        audit=audit,
        names=names_of(session, principal, audit),
        summary=summary,
        finding=finding,
        exact=score.model_dump(include=EXACT),
        words=wording.finding_words(score, summary),
        extent=charts.interval_extent([score]),
        observed=observations_shown(finding),
        split=split_shown(finding),
        no_split=evidence.no_split_words(summary.token_split, kept=finding.trace is not None),
        baselines=[(name, finding.baselines.get(name)) for name in BASELINE_COLUMNS] if finding.baselines else [],
        extra=extra,
        hidden=sum(map(visible_text.count_hidden, shown)),
        max_shown=visible_text.MAX_SHOWN,
        previous=previous,
        following=following,
        base=base,
        cluster_link=f"{base}?{urlencode({'cluster': finding.cluster})}",
        asked=asked,
        changes=changes,
        opinions=opinions,
        actors=queries.actor_names(session, principal, said_by),
        here=f"/audits/{audit.id}/findings/{row}{asked.query()}",
    )


@dataclass(frozen=True)
class ShownSplit:
    """The shares of a sample's words as a page shows them."""

    turns: list[list[tuple[visible_text.Piece, int]]]
    """The pieces of each turn, with their shades."""
    words: list[tuple[str, float]]
    """The largest shares, each with its word."""
    left: int
    """How many more words there are."""
    elsewhere: float
    net: float
    """The sum of all shares."""


def split_shown(finding: FindingDetail) -> ShownSplit | None:
    """Put the shares toward the probe that speaks most for the sample together for its page; None where it has none."""
    own = next((split for split in finding.tokens or [] if split.probe_no == finding.strongest_probe), None)
    if own is None or finding.messages is None:
        return None
    contents = [message["content"] for message in finding.messages]
    words = token_shares.word_shares([token_shares.Share(**token.model_dump()) for token in own.tokens], contents)
    steps = token_shares.steps_of(words)
    turns = []
    for number, content in enumerate(contents):
        here = [(word, step) for word, step in zip(words, steps, strict=True) if word.message == number]
        turns.append(list(token_shares.shaded(content, [word for word, _ in here], [step for _, step in here])))
    largest = sorted(words, key=lambda word: -abs(word.share))[:WORDS_SHOWN]
    return ShownSplit(
        turns=turns,
        words=[(contents[word.message][word.start : word.end], word.share) for word in largest],
        left=len(words) - len(largest),
        elsewhere=own.elsewhere,
        net=own.elsewhere + sum(word.share for word in words),
    )


def observations_shown(finding: FindingDetail) -> list[Observation]:
    """Choose the observations toward the probe that speaks most for the sample."""
    trace = finding.trace or []
    return [one for one in trace if one.probe_no == finding.strongest_probe and one.mu is not None]
