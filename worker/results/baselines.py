"""Scores of every sample by simpler methods: from the texts, and from what the runs measured along with the signals."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.contract.results import BASELINE_COLUMNS
from worker.influence.directions import Kind
from worker.results.recording import Recording, mean_over_draws
from worker.text.text_scores import text_baselines

Floats = NDArray[np.float64]


def baselines_of(
    recordings: Sequence[Recording], messages: Sequence[Sequence[Mapping[str, str]]], unwanted: Sequence[str]
) -> dict[str, Floats]:
    """Compute the baselines named in BASELINE_COLUMNS.

    Figures of the runs are means over a sample's draws and over seeds; TracIn is a sum over draws. With several probes
    it is the largest after each is put in units of its own spread.

    Args:
        recordings: One per seed.
        messages: [rows], the conversations.
        unwanted: The unwanted answers of all probes.

    Returns:
        [rows] by name, larger for more suspicious; NaN where a method has no value.
    """
    rows = len(messages)
    found = {
        **text_baselines(messages, unwanted),
        "loss": mean_over_draws(recordings, [r.loss for r in recordings], rows),
        "gradient_norm": mean_over_draws(recordings, [r.gradient_norm for r in recordings], rows),
        "representation_similarity": _strongest(
            [
                mean_over_draws(recordings, [r.similarity[:, probe] for r in recordings], rows)
                for probe in range(len(recordings[0].held_out))
            ]
        ),
        "tracin": _strongest([tracin(recordings, rows, probe) for probe in range(len(recordings[0].held_out))]),
    }
    return {name: found[name] for name in BASELINE_COLUMNS}


def tracin(recordings: Sequence[Recording], rows: int, probe: int) -> Floats:
    """Return TracIn (Pruthi et al. 2020) as measured in the run, [rows]: mean over seeds.

    It is the sum over a sample's draws of the learning rate times <G, g>, with G the gradient of the probe and g the
    sample's. NaN for a sample that one of the runs never measured.

    Args:
        recordings: One per seed.
        rows: Number of samples of the dataset.
        probe: The probe's number, counted from 0.
    """
    return np.asarray(np.mean([tracin_of_seed(recording, rows, probe) for recording in recordings], axis=0))


def tracin_of_seed(recording: Recording, rows: int, probe: int) -> Floats:
    """Return TracIn of one run, [rows]; NaN for a sample that was measured in no step with a learning rate.

    Args:
        recording: The seed's recording.
        rows: Number of samples of the dataset.
        probe: The probe's number, counted from 0.
    """
    column = recording.column(probe, Kind.UNWANTED)
    assert column is not None
    observations = recording.observations
    rate = recording.steps.learning_rate[observations.step]
    term = rate * recording.product[:, column]
    seen = np.isfinite(term) & (rate > 0)
    total = np.bincount(observations.row[seen], term[seen], minlength=rows).astype(np.float64)
    total[np.bincount(observations.row[seen], minlength=rows) == 0] = np.nan
    return total


def _strongest(of_probes: Sequence[Floats]) -> Floats:
    """Return the largest value over the probes, each in units of its median absolute deviation if there are several."""
    if len(of_probes) == 1:
        return of_probes[0]
    centred = [values - np.nanmedian(values) for values in of_probes]
    return np.asarray(np.max([values / (np.nanmedian(np.abs(values)) or 1.0) for values in centred], axis=0))
