"""What an audit would cost, as the API shows it. Every figure says what it rests on."""

from typing import Literal

from pydantic import BaseModel, Field

from service.contract.results import Caution


class Steps(BaseModel):
    """Optimiser steps."""

    per_seed: int
    total: int
    basis: str


class Tokens(BaseModel):
    """Tokens trained on, prompts included. Null where nothing is known of the texts' lengths."""

    per_epoch: int | None
    total: int | None
    longest: int | None = Field(description="Of one sample, after truncation.")
    basis: str


class Memory(BaseModel):
    """Bytes on the device while it trains, counted as on a GPU. Null where the model's shape is not known."""

    weights: int | None = None
    lora: int | None = Field(
        default=None, description="Weights, gradients and the optimiser's two moments of the LoRA layers."
    )
    probes: int | None = Field(
        default=None,
        description="Directions of all probes, and the gradients of one probe's items while it is measured.",
    )
    activations: int | None = Field(
        default=None, description="Of the largest part of a step or of a probe that runs at once, at most."
    )
    total: int | None = None
    least: int | None = Field(
        default=None, description="With passes of one sample, which is how an audit runs where memory is scarce."
    )
    checkpoint: int | None = Field(
        default=None, description="On the worker's disk and in the object store, without what is kept of each sample."
    )
    largest_worker: int | None = Field(
        default=None, description="Memory of the largest worker for audits that is alive. Null: none, or not known."
    )
    basis: str


class DeviceTime(BaseModel):
    """How long it would take on one kind of device."""

    device: str
    seconds: float
    audits: int = Field(description="Past audits that this is taken from.")


class Time(BaseModel):
    """Wall time from its start to its result, for each kind of device that the workspace has used for this model."""

    devices: list[DeviceTime]
    basis: str


class Estimate(BaseModel):
    """What an audit would cost. Nothing is queued."""

    object: Literal["audit.estimate"] = "audit.estimate"
    rows: int
    steps: Steps
    tokens: Tokens
    memory: Memory
    time: Time
    warnings: list[Caution] = Field(description="What to think of before it is started.")
