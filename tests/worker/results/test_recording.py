"""A recording is read as it was written, by this version and by earlier ones."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from tests.support.recordings import recording
from worker.results.recording import Recording


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = recording(represented=5.0)
    written.save(tmp_path / "recording.npz")
    read = Recording.load(tmp_path / "recording.npz")
    assert read.facts == written.facts
    for name in ("inner", "gradient_norm", "loss", "similarity", "probe_loss", "kind", "probe"):
        np.testing.assert_allclose(getattr(read, name), getattr(written, name), rtol=1e-6)
    assert {field.name for field in fields(read)} == {field.name for field in fields(written)}


def test_representations_of_earlier_versions_have_one_part(tmp_path: Path) -> None:
    """They were vectors of whole answers, without an axis for parts."""
    found = recording(represented=5.0)
    earlier = replace(found, inner=found.inner[:, 0], inner_items=tuple(own[:, :, 0] for own in found.inner_items))
    earlier.save(tmp_path / "recording.npz")
    read = Recording.load(tmp_path / "recording.npz")
    np.testing.assert_array_equal(read.inner, found.inner)
    for own, expected in zip(read.inner_items, found.inner_items, strict=True):
        np.testing.assert_array_equal(own, expected)
