"""The tiny model and its tokenizer, as the training code loads them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from service.contract import ModelSource, ModelSpec
from tests.worker.tiny_model import build_tiny_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_spec(tiny_folder: Path) -> ModelSpec:
    return ModelSpec(source=ModelSource.LOCAL, location=str(tiny_folder))


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_folder)
