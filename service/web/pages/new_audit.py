"""The page of a new audit: the form is checked, or the audit started, or the form shown again with its errors."""

from collections.abc import Callable, Mapping
from typing import Annotated, TypeVar

from fastapi import APIRouter, BackgroundTasks, Depends, Query, Response
from sqlalchemy.orm import Session

from service.audits import actions
from service.audits.estimate.estimate import estimate_audit
from service.audits.estimate.schemas import Estimate
from service.audits.queries import AuditFilter, find_audit, list_audits, render_audit_summary
from service.audits.validation import check_request
from service.datasets.queries import find_dataset, list_datasets
from service.errors import DomainError, NotFoundError
from service.http.auth.authentication import RequireScope
from service.http.dependencies import RowsDep, SessionDep, SettingsDep
from service.http.middleware.request_ids import request_id
from service.models.queries import find_model, list_models
from service.principal import Principal
from service.probes.actions import create as create_probe
from service.probes.packs import load_packs
from service.probes.queries import list_probes
from service.settings import Settings
from service.store.stored_rows import StoredRows
from service.web import audit_form, queries
from service.web.audit_form import WrongFieldsError
from service.web.audit_options import ADVANCED, MAIN
from service.web.forms import FormDep, see_other
from service.web.page_route import PageRoute
from service.web.pages.page import answer_page

router = APIRouter(route_class=PageRoute)

Writer = Annotated[Principal, Depends(RequireScope("audits:write"))]
T = TypeVar("T")
Id = Annotated[str | None, Query(max_length=100)]

LISTED = 200
"""How many of the newest datasets, probes and models there are to choose from."""

ADDED = 3
"""Empty items that the button adds in browsers without scripts."""


class _OnlyCheckedError(Exception):
    """Ends the savepoint of a check, so that nothing of it stays."""


@router.get("/audits/new")
def new_audit(principal: Writer, session: SessionDep, dataset: Id = None, copy: Id = None) -> Response:
    """Show the form: empty, for one dataset, or with everything as in another audit."""
    if copy is not None:
        typed = audit_form.copied(render_audit_summary(find_audit(session, principal, copy)))
    else:
        chosen = _only_dataset(session, principal) if dataset is None else find_dataset(session, principal, dataset).id
        has_probes = bool(list_probes(session, principal, after=None, limit=1))
        model = _last_model(session, principal)
        typed = audit_form.fresh(dataset=chosen, model=model, behaviour="existing" if has_probes else "pack")
    return _form(session, principal, typed)


def _only_dataset(session: Session, principal: Principal) -> str:
    """Id of the workspace's dataset, where there is no choice; else empty."""
    datasets = list_datasets(session, principal, after=None, limit=2)
    return datasets[0].id if len(datasets) == 1 else ""


def _last_model(session: Session, principal: Principal) -> str:
    """Id of the model of the newest audit, else of the only one that is registered; else empty."""
    audits = list_audits(session, principal, AuditFilter(), after=None, limit=1)
    if audits:
        return audits[0][0].model_id
    models = list_models(session, principal, after=None, limit=2)
    return models[0].id if len(models) == 1 else ""


@router.post("/audits/new")
def submit(
    principal: Writer,
    fields: FormDep,
    session: SessionDep,
    settings: SettingsDep,
    rows: RowsDep,
    background: BackgroundTasks,
) -> Response:
    """Do what the pressed button says: start the audit and go to its page, check it, or add empty items."""
    typed = audit_form.cleaned(fields)
    pressed = typed.pop("do", "check")
    if pressed == "add-items":
        return _form(session, principal, typed, more_items=ADDED)
    estimate = None
    try:
        if pressed == "start":
            return see_other(f"/audits/{_start(session, principal, typed, settings, background)}")
        estimate = _check(session, principal, typed, settings, rows)
    except WrongFieldsError as error:
        return _form(session, principal, typed, errors=error.errors)
    return _form(session, principal, typed, estimate=estimate)


def _start(
    session: Session, principal: Principal, typed: audit_form.Typed, settings: Settings, background: BackgroundTasks
) -> str:
    """Create the audit, and its probe if that is new too; return the audit's id."""
    probe = _read(typed)
    try:
        with session.begin_nested():  # a probe stays only with its audit
            body = audit_form.read_audit(typed, _probe_ids(session, principal, typed, probe, settings))
            audit = actions.create(
                session, principal, body, settings=settings, request_id=request_id.get(), later=background.add_task
            )
    except DomainError as error:
        raise _wrong(error, probe) from None
    return audit.id


def _check(
    session: Session, principal: Principal, typed: audit_form.Typed, settings: Settings, rows: StoredRows
) -> Estimate:
    """Say what the audit would cost and what speaks against it; a new probe is made for it, and undone."""
    probe = _read(typed)
    estimate = None
    try:
        with session.begin_nested():
            body = audit_form.read_audit(typed, _probe_ids(session, principal, typed, probe, settings))
            model = check_request(session, principal, body)
            estimate = estimate_audit(
                session, principal, body, model, rows=rows, heartbeat_seconds=settings.heartbeat_seconds
            )
            raise _OnlyCheckedError
    except _OnlyCheckedError:
        assert estimate is not None
        return estimate
    except DomainError as error:
        raise _wrong(error, probe) from None


def _read(typed: audit_form.Typed) -> audit_form.NewProbe | None:
    """Read the whole form before anything is written, so that all its errors are shown at once."""
    errors: dict[str, str] = {}
    probe = None
    try:
        probe = audit_form.read_probe(typed)
    except WrongFieldsError as error:
        errors |= error.errors
    try:
        audit_form.read_audit(typed, audit_form.chosen_probes(typed) if probe is None and not errors else ["new"])
    except WrongFieldsError as error:
        errors |= error.errors
    if errors:
        raise WrongFieldsError(errors)
    return probe


def _probe_ids(
    session: Session,
    principal: Principal,
    typed: audit_form.Typed,
    probe: audit_form.NewProbe | None,
    settings: Settings,
) -> list[str]:
    if probe is None:
        return audit_form.chosen_probes(typed)
    return [create_probe(session, principal, probe.body, settings=settings).id]


def _wrong(error: DomainError, probe: audit_form.NewProbe | None) -> WrongFieldsError:
    """The error of an action by the fields that it is of; by none where it is of the whole."""
    places = {} if probe is None else probe.places
    found: dict[str, str] = {}
    for pointer, detail in error.errors.items():
        field = audit_form.field_of(pointer, places)
        found.setdefault(field, audit_form.field_error(pointer, field, detail) if field else error.detail)
    return WrongFieldsError(found or {"": error.detail})


def _form(
    session: Session,
    principal: Principal,
    typed: audit_form.Typed,
    *,
    errors: Mapping[str, str] | None = None,
    estimate: Estimate | None = None,
    more_items: int = 0,
) -> Response:
    """Answer with the form and everything that was typed."""
    datasets = list_datasets(session, principal, after=None, limit=LISTED)
    dataset = next((one for one in datasets if one.id == typed.get("dataset")), None)
    if dataset is None and typed.get("dataset"):
        dataset = _found(lambda: find_dataset(session, principal, typed["dataset"]))
        datasets += [] if dataset is None else [dataset]
    models = list(list_models(session, principal, after=None, limit=LISTED))
    if typed.get("model") and typed["model"] not in {model.id for model in models}:
        model = _found(lambda: find_model(session, principal, typed["model"]))
        models += [] if model is None else [model]
    ticked = audit_form.chosen_probes(typed)
    probes = {row.id: row.name for row in list_probes(session, principal, after=None, limit=LISTED)}
    names = queries.names(session, principal, ticked)
    return answer_page(
        "new_audit.html",
        "audits",
        principal,
        status=422 if errors else 200,
        typed=typed,
        errors=dict(errors or {}),
        estimate=estimate,
        datasets=datasets,
        columns=[] if dataset is None else dataset.columns[:LISTED],
        models=models,
        ticked=ticked,
        # Those that are ticked come first and keep their order, which is that of the audit.
        probes={identity: names[identity] for identity in ticked if identity in names} | probes,
        packs=list(load_packs().values()),
        items=audit_form.shown_items(typed, more_items),
        most_items=audit_form.MOST_ITEMS,
        main=MAIN,
        advanced=ADVANCED,
        advanced_open=any(
            typed.get(option.name, "") != option.default or option.name in (errors or {}) for option in ADVANCED
        ),
    )


def _found(find: Callable[[], T]) -> T | None:
    """Return what `find` finds; None where it says that there is nothing."""
    try:
        return find()
    except NotFoundError:
        return None
