"""What all built-in tokenizers share: checks, chunks, and saving without pickle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from genrec_adapters.item_codes import Codes
from genrec_plugins.tokenizers.inputs import CHUNK_ROWS, Floats, check_catalogue, check_embeddings, chunks, float32
from genrec_registry import DataError, ModelError

FILE = "tokenizer.safetensors"
Arrays = dict[str, np.ndarray]


class BaseTokenizer(ABC):
    """A :class:`~genrec_registry.contracts.Tokenizer` whose learned state is a few named arrays.

    A subclass fills in ``_fit``, ``_encode`` and ``_reconstruct`` and keeps what it learned in ``self.arrays``; it may
    assume finite embeddings of the right width, a chunk at a time.

    Args:
        sizes: codes of each of the L levels.
    """

    #: whether levels are learned, so that a level cannot have more codes than there are items
    learned: ClassVar[bool] = True

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.arrays: Arrays = {}

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes of each of the L levels."""
        return self.sizes

    def fit(
        self, embeddings: np.ndarray, item_ids: Sequence[str], side: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Learn from ``[N, E]`` embeddings; ``side`` is not used.

        Raises:
            DataError: there are no items, an item stands twice, an embedding is not finite, or a codebook is larger
                than the catalogue.
        """
        check_catalogue(embeddings, item_ids, self.codebook_sizes if self.learned else ())
        learned = self._fit(float32(embeddings))
        self.arrays = {"width": np.array(embeddings.shape[1], np.int64), **learned}

    def encode(self, embeddings: np.ndarray, item_ids: Sequence[str]) -> Codes:
        """Codes ``[N, L]``; memory beyond the result is that of one chunk.

        Raises:
            DataError: an embedding is not finite, or has another width than those of the fit.
            ModelError: nothing was fitted or restored.
        """
        check_embeddings(embeddings, item_ids, self.width)
        codes = np.empty((len(embeddings), len(self.codebook_sizes)), dtype=np.int32)
        for part in chunks(len(embeddings), CHUNK_ROWS):
            codes[part] = self._encode(float32(embeddings[part]), item_ids[part.start : part.stop])
        return codes

    def reconstruct(self, codes: np.ndarray) -> Floats | None:
        """Embeddings ``[N, E]`` that codes ``[N, L]`` stand for; None where codes say nothing of them.

        Raises:
            DataError: a code is out of range.
            ModelError: nothing was fitted or restored.
        """
        width = self.width
        if codes.ndim != 2 or codes.shape[1] != len(self.codebook_sizes):
            raise DataError(f"codes have shape {codes.shape}, expected [N, {len(self.codebook_sizes)}]")
        if bool(((codes < 0) | (codes >= np.array(self.codebook_sizes))).any()):
            raise DataError(f"a code lies outside its codebook; the sizes are {self.codebook_sizes}")
        if not self.learned:
            return None
        found = np.empty((len(codes), width), dtype=np.float32)
        for part in chunks(len(codes), CHUNK_ROWS):
            found[part] = self._reconstruct(codes[part])
        return found

    @property
    def width(self) -> int:
        """E, the width of the embeddings it was fitted on."""
        self._expect_fitted()
        return int(self.arrays["width"])

    def _expect_fitted(self) -> None:
        if not self.arrays:
            raise ModelError("the tokenizer is not fitted; call fit, or restore what a fitted one saved")

    def save(self, directory: str) -> None:
        """Write the arrays into ``tokenizer.safetensors`` of an existing directory.

        Raises:
            ModelError: nothing was fitted or restored.
        """
        from safetensors.numpy import save_file

        self._expect_fitted()
        save_file({name: np.asarray(array, order="C") for name, array in self.arrays.items()}, Path(directory) / FILE)

    def restore(self, directory: str) -> None:
        """Take back what :meth:`save` wrote.

        Raises:
            DataError: there is nothing of the kind, or it belongs to another config.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = Path(directory) / FILE
        try:
            arrays = {name: array.copy() for name, array in load_file(path).items()}  # no map of a file that may go
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: is no saved tokenizer ({error}); fit it again") from error
        expected = self._shapes(int(arrays["width"])) if "width" in arrays else {}
        found = {name: array.shape for name, array in arrays.items() if name != "width"}
        if "width" not in arrays or found != expected:
            raise DataError(f"{path}: holds arrays of shapes {found}, this config has {expected}; fit it again")
        self.arrays = arrays

    def _fit(self, embeddings: Floats) -> Arrays:
        return {}

    @abstractmethod
    def _encode(self, embeddings: Floats, item_ids: Sequence[str]) -> Codes: ...

    def _reconstruct(self, codes: Codes) -> Floats:
        raise NotImplementedError

    @abstractmethod
    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the arrays that ``_fit`` gives for embeddings of this width."""
