"""Which object store the settings name."""

from service.settings import Settings
from service.store.local_objects import LocalObjects
from service.store.objects import ObjectStore
from service.store.patience import OF_A_WORKER, Patience


def make_object_store(settings: Settings, patience: Patience = OF_A_WORKER) -> ObjectStore:
    """Make the store that the settings name. It connects to nothing yet.

    Args:
        settings: The settings of the installation.
        patience: How long it waits for answers of a bucket.

    Raises:
        BadSettingsError: A bucket is named, and the client for buckets is not installed.
    """
    # Imported here, since the clients of buckets take long to import and most installations need none.
    if settings.object_url is not None:
        from service.store.s3_objects import S3Objects

        return S3Objects(settings.object_url, endpoint=settings.object_endpoint, spool=settings.work, patience=patience)
    return LocalObjects(settings.objects)
