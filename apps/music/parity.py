"""Recorded cases of music systems, mapped onto what is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.parity import Case

__all__ = ["CASES"]


def _container(case: Case) -> Mapping[str, Any]:
    """Read a container of tokens, cut it into samples and blend data sets."""
    import numpy as np

    from apps.music.data import megatron_order
    from apps.music.data.corpus import Stream
    from apps.music.data.readers.container import open_container

    files = [name for name in case.head["files"] if str(name).endswith(".idx")]
    corpus = open_container(case.path.with_name(files[0]))
    inputs = {name: tensor.cpu().numpy() for name, tensor in case.group("input").items()}
    length = int(case.head["sequence_length"])
    order = inputs["document_index"]
    index = megatron_order.sample_index(corpus.lengths, order, length)
    stream = Stream(corpus, order, 1 << 31)
    places = np.arange(len(index) - 1)[:, None] * length + np.arange(length + 1)
    drawn = int(case.tensors["output/blend_dataset_index"].shape[0])
    chosen, sample = megatron_order.blend(inputs["blend_weights"].tolist(), drawn)
    return {
        "output/all_tokens": np.asarray(corpus.tokens).astype(np.int64),
        "output/sequence_lengths": corpus.lengths,
        "output/document_indices": corpus.borders,
        "output/sequence_pointers": corpus.starts * corpus.tokens.itemsize,
        "output/sample_index": index,
        "output/samples": stream.read(places),
        "output/blend_dataset_index": chosen,
        "output/blend_dataset_sample_index": sample,
    }


CASES: dict[tuple[str, str], Callable[[Case], Mapping[str, Any]]] = {("yue", "data_container"): _container}
