"""Making a dataset of an upload that is whole: in the background of a process, so that no proxy's patience ends it.

A request waits a while for it and is then sent again; the outcome is in the upload's row, where every process finds it.
"""

import asyncio
import contextlib
import logging
import time
from functools import partial

from anyio import CancelScope
from anyio.to_thread import run_sync

from service.datasets.intake import Form
from service.datasets.upload import receive_dataset
from service.datasets.upload_form import UploadForm
from service.datasets.uploads import actions
from service.datasets.uploads.parts import stored_bytes
from service.errors import DomainError, InvalidError, InvalidReferenceError, TooLargeError
from service.http.transactions import Transactions
from service.lifecycle.wakeup import wake
from service.principal import Principal
from service.settings import Settings
from service.store.objects import ObjectStore
from service.store.tables import Dataset

WAIT_SECONDS = 25.0
"""How long a request waits for the dataset; proxies often give up after 60 seconds."""

LOOK_SECONDS = 0.5
"""Seconds between two looks at what another request has begun."""

log = logging.getLogger(__name__)


class Finishing:
    """The datasets that one process is making of uploads."""

    def __init__(self, objects: ObjectStore, settings: Settings, transactions: Transactions) -> None:
        """Make one that has nothing to do yet.

        Args:
            objects: Where parts are, and where the dataset will be.
            settings: Hold the limits.
            transactions: For what is noted.
        """
        self._objects = objects
        self._settings = settings
        self._transactions = transactions
        self._running: set[asyncio.Task[Dataset]] = set()

    async def finish(
        self, principal: Principal, upload_id: str, form: UploadForm, *, request_id: str | None
    ) -> Dataset | None:
        """Make the dataset, or wait for the process that does.

        Args:
            principal: Who is asking.
            upload_id: An upload that is whole.
            form: What to read it as.
            request_id: Id of the request that asks.

        Returns:
            None where it has not been made within WAIT_SECONDS: ask again.

        Raises:
            DomainError: As `actions.take` and `receive_dataset` raise them.
        """
        until = time.monotonic() + WAIT_SECONDS
        look = partial(actions.take, principal=principal, upload_id=upload_id, form=form.key)
        while (found := await self._transactions.run(look)) is None:
            if time.monotonic() >= until:
                return None
            await asyncio.sleep(LOOK_SECONDS)
        if isinstance(found, Dataset):
            return found
        task = asyncio.create_task(self._make(principal, found, form, request_id))
        self._running.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task}, timeout=max(0.0, until - time.monotonic()))
        return task.result() if task.done() else None

    async def stop(self) -> None:
        """End what is being made; another process may begin anew at once."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: "asyncio.Task[Dataset]") -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, DomainError):
            log.error("no dataset was made of an upload: %s", type(error).__name__)

    async def _make(
        self, principal: Principal, taken: actions.Taken, form: UploadForm, request_id: str | None
    ) -> Dataset:
        holding = asyncio.create_task(self._hold(taken.upload_id))
        refusal: DomainError | None = None
        try:
            dataset = await receive_dataset(
                stored_bytes(self._objects, principal.workspace_id, taken.upload_id, taken.parts),
                gone=_nobody_leaves,
                objects=self._objects,
                settings=self._settings,
                transactions=self._transactions,
                principal=principal,
                name=form.name or taken.name,
                form=Form(format=form.format, mapping=form.mapping),
                replaces=form.replaces,
                besides=taken.upload_id,
                request_id=request_id,
                recorded=lambda session, dataset: actions.complete(session, self._settings, taken.upload_id, dataset),
            )
        except BaseException as error:
            # What the file itself is refused for will be so again; the rest may pass.
            if isinstance(error, TooLargeError | InvalidError) and not isinstance(error, InvalidReferenceError):
                refusal = error
            with CancelScope(shield=True):
                free = partial(actions.release, upload_id=taken.upload_id, form=form.key, error=refusal)
                await self._transactions.run(free)
            raise
        finally:
            holding.cancel()
        await run_sync(wake, self._settings, "io")
        return dataset

    async def _hold(self, upload_id: str) -> None:
        while True:
            await asyncio.sleep(actions.FINISHING_SECONDS / 3)
            # The next one may get through.
            with contextlib.suppress(Exception):
                await self._transactions.run(partial(actions.hold, upload_id=upload_id))


async def _nobody_leaves() -> None:
    """Never return: the dataset is made whether or not a client still waits for it."""
    await asyncio.Event().wait()
