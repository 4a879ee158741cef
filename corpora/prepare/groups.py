"""Group items that share a key, directly or through other items."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence


def connected(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """Group number of each item, given the keys of each item: one shared key puts two items into one group."""
    # SciPy takes 0.2 s to import, and the command line imports this package for every corpus.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes: dict[Hashable, int] = {}
    edges = [(item, len(keys) + nodes.setdefault(key, len(nodes))) for item, own in enumerate(keys) for key in own]
    ends = tuple(zip(*edges, strict=True)) if edges else ((), ())
    size = len(keys) + len(nodes)
    graph = coo_array(([True] * len(edges), ends), shape=(size, size), dtype=bool)
    return connected_components(graph, directed=False)[1][: len(keys)].tolist()
