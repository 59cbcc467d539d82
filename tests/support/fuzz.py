"""Strategies for documents from elsewhere, and the rule that readers of them keep."""

import json
from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)


def documents(keys: Sequence[str], values: Sequence[object] = ()) -> SearchStrategy[object]:
    """JSON values whose objects often have these keys, and whose leaves are often these values."""
    names = st.sampled_from(keys) | st.text(max_size=5)
    leaves = _SCALARS | st.sampled_from(values) if values else _SCALARS
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
        max_leaves=15,
    )


def json_bytes(keys: Sequence[str], values: Sequence[object] = ()) -> SearchStrategy[bytes]:
    """Bytes: JSON texts of :func:`documents`, cut-off ones, and any others."""
    whole = documents(keys, values).map(lambda data: json.dumps(data).encode())
    cut = st.tuples(whole, st.integers(0, 50)).map(lambda pair: pair[0][: pair[1]])
    return whole | cut | st.binary(max_size=50)
