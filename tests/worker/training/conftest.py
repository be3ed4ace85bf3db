"""The tiny model and its tokenizer, as the training code loads them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from service.contract.spec import ModelSource, ModelSpec

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_spec(tiny_folder: Path) -> ModelSpec:
    return ModelSpec(source=ModelSource.LOCAL, location=str(tiny_folder))


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_folder)
